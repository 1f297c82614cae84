"""Clients' prompts as the metrics tell them: exactly what happened to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp.test_utils import TestClient
from prompts_front import (
    Http,
    Workers,
    ended,
    get,
    graph,
    instance_of,
    interrupt,
    listening,
    pile_up,
    post,
    recover,
    show,
    until,
)

from comfy_proxy.keys import METRICS


def of_each(http: Http, event: str) -> list[int]:
    """How often at the first instance, how often at the second."""
    stats = http.app[METRICS].get_stats()
    counts = [instance["prompts"][event] for instance in stats["instances"]]
    assert stats["prompts"][event] == sum(counts)
    return counts


async def test_forwarded_prompts_are_counted_where_they_were_taken(
    proxy: TestClient, workers: Workers
) -> None:
    """One for each that an instance accepted; a refused one is none."""
    ids = [await post(proxy, graph(0.01)) for _ in range(7)]
    async with proxy.post("/prompt", json={"prompt": {}}) as answer:
        assert answer.status == 400
    assert of_each(proxy, "forwarded") == [len(worker.submitted) for worker in workers]
    assert sum(of_each(proxy, "forwarded")) == 7
    await ended(proxy, *ids)


async def test_one_instance_forwards_bytes_and_counts_all_the_same(
    workers: Workers, start_proxy: Callable[..., Any]
) -> None:
    """Without a second instance nobody reads the prompt, but its acceptance is seen."""
    http = await start_proxy(workers[0])
    ids = [await post(http, graph()) for _ in range(3)]
    await ended(http, *ids)
    assert of_each(http, "forwarded") == [3]


async def test_moved_prompts_are_counted_at_their_target(
    proxy: TestClient, workers: Workers
) -> None:
    """Four wait behind a long one; the instance that returns takes them over: four moves."""
    busy, idle = workers
    blocker, *waiting = await pile_up(proxy, workers)
    assert of_each(proxy, "forwarded") == [5, 0]
    await show(proxy, idle)
    await ended(proxy, *waiting)
    assert idle.executed == waiting
    assert of_each(proxy, "moved") == [0, 4]
    assert of_each(proxy, "forwarded") == [5, 0]  # moved is not forwarded again
    await interrupt(proxy, blocker)
    await ended(proxy, blocker)
    assert busy.started == [blocker]


async def test_an_instance_that_cannot_take_a_prompt_is_passed_over(
    proxy: TestClient, workers: Workers
) -> None:
    """Once for each prompt that was to go there while it was believed to be healthy."""
    for worker in workers:
        await recover(proxy, worker)
    away, other = workers
    await ended(proxy, *[await post(proxy) for _ in range(2)])  # both are known by now
    before = of_each(proxy, "forwarded")
    away.faults.answers = {"/system_stats": "500"}
    instance_of(proxy, other).prompts.external_jobs = 5  # so that the other one is asked first
    prompt_id = await post(proxy)
    assert other.submitted[-1] == prompt_id
    assert of_each(proxy, "passed_over") == [1, 0]
    assert of_each(proxy, "forwarded") == [before[0], before[1] + 1]
    await ended(proxy, prompt_id)


async def test_the_frames_of_a_client_are_counted(proxy: TestClient, workers: Workers) -> None:
    """Each frame that it got, each that it sent; the socket is one client while it is open."""
    metrics = proxy.app[METRICS]
    async with listening(proxy) as listener:
        prompt_id = await post(proxy, client_id=listener.client_id)
        await until(lambda: listener.over(prompt_id))
        await until(lambda: listener.sums()[-1] == 0)
        await listener._socket.send_json({"type": "feature_flags", "data": {}})
        await until(lambda: metrics.get_stats()["websockets"]["frames_to_instance"] == 1)
        await get(proxy, "/queue")
        stats = metrics.get_stats()["websockets"]
        assert stats["clients"] == 1
    total = len(listener.frames) + len(listener.binary)
    await until(lambda: metrics.get_stats()["http"]["by_status"].get("101") == 1)
    stats = metrics.get_stats()["websockets"]
    assert (stats["clients"], stats["frames_to_client"]) == (0, total)
    sent = metrics.http.sent["events"]
    assert sent > sum(len(frame) for frame in listener.binary) + 100 * len(listener.frames) / 2
