"""A prompt that runs for longer than it should keeps nobody waiting who could run elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from manual_clock import ManualClock
from prompts_front import LONG_S, Workers, ended, graph, interrupt, post, until
from yarl import URL

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.prompts.late_runs import LateRuns
from comfy_proxy.gateway.prompts.uneven import Uneven
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


class Foreseen(Uneven):
    """What is late when, as the test says."""

    def __init__(self) -> None:
        self.gains_s: float | None = None
        self.first: tuple[Instance, object, float] | None = None

    def gains_in_s(self) -> float | None:
        return self.gains_s

    def unheard(self) -> Iterator[tuple[Instance, object, float]]:
        return iter(() if self.first is None else (self.first,))


@pytest.fixture
def foreseen() -> Foreseen:
    return Foreseen()


@pytest.fixture
def again() -> list[float]:
    """When work was to be evened out again."""
    return []


@pytest.fixture
def late_runs(clock: ManualClock, foreseen: Foreseen, again: list[float]) -> LateRuns:
    cluster: Any = SimpleNamespace(clock=clock)
    ledger: Any = None
    return LateRuns(cluster, ledger, foreseen, lambda: again.append(clock.monotonic()))


async def test_it_is_evened_out_at_the_moment_that_is_foreseen(
    late_runs: LateRuns, foreseen: Foreseen, again: list[float], clock: ManualClock
) -> None:
    """Once; the next time is foreseen anew."""
    begun, foreseen.gains_s = clock.monotonic(), 5.0
    late_runs.foresee()
    await clock.advance(60.0)
    assert again == [begun + 5.0]


async def test_what_is_foreseen_later_counts(
    late_runs: LateRuns, foreseen: Foreseen, again: list[float], clock: ManualClock
) -> None:
    """Something has happened meanwhile; and nothing is left behind at the end."""
    foreseen.gains_s = 5.0
    late_runs.foresee()
    foreseen.gains_s = 50.0
    late_runs.foresee()
    await clock.advance(10.0)
    late_runs.close()
    assert (again, clock.waiting) == ([], 0)


async def test_an_instance_is_asked_once_for_what_should_run(
    late_runs: LateRuns,
    foreseen: Foreseen,
    again: list[float],
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Perhaps somebody else's prompt runs there: asking again and again would not show more."""
    asked: list[Instance] = []

    async def ask(_late_runs: LateRuns, busy: Instance) -> None:
        asked.append(busy)

    monkeypatch.setattr(LateRuns, "_ask", ask)
    instance = Instance(id="1", url=URL("http://gpu1:8188"), clock=clock)
    foreseen.first = (instance, "prompt", 5.0)
    for _ in range(3):
        late_runs.foresee()
        await clock.advance(60.0)
        await late_runs.ask()
    assert (asked, len(again)) == ([instance], 1)
    foreseen.first = (instance, "the next prompt", 5.0)
    late_runs.foresee()
    await clock.advance(60.0)
    await late_runs.ask()
    assert asked == [instance, instance]
