"""A prompt that runs for longer than it should keeps nobody waiting who could run elsewhere."""

from __future__ import annotations

from typing import Any

from aiohttp.test_utils import TestClient
from prompts_front import LONG_S, Workers, ended, graph, interrupt, post, until

from comfy_proxy.keys import CLUSTER


async def test_what_waits_behind_one_that_runs_on_goes_elsewhere(
    proxy: TestClient[Any, Any], workers: Workers
) -> None:
    """Though it was believed to end soon, the other instance is slower, and nobody is told of what
    runs: its client has no socket."""
    cluster = proxy.app[CLUSTER]
    drains, costs = cluster.drains, cluster.planner.costs
    one, two = cluster.instances
    await ended(proxy, await post(proxy, graph(0)))
    long, short = (cluster.graph_support.work(graph(seconds)) for seconds in (LONG_S, 0))
    assert long is not None
    assert short is not None
    for _ in range(9):
        for instance, work, seconds in ((one, long, 0.01), (one, short, 0.01), (two, short, 0.05)):
            costs.learn(instance, work, seconds, loaded=(), now=cluster.clock.monotonic())
    await drains.drain(two)
    blocker = await post(proxy, graph(LONG_S))
    await until(lambda: blocker in workers[0].started)
    behind = await post(proxy, graph(0))
    assert behind not in workers[0].started
    drains.resume(two)
    await ended(proxy, behind)
    assert behind in workers[1].started
    await interrupt(proxy, blocker)
