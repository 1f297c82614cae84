"""An instance that an operator takes out of use: nothing new goes there, and what waits leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import past_the_proxy
import pytest
from aiohttp.test_utils import TestClient
from prompts_front import (
    LONG_S,
    ended,
    get,
    graph,
    instance_of,
    interrupt,
    post,
    recover,
    total,
    until,
)

from comfy_proxy.cluster.instance import takes_work
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import CLUSTER

Workers = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Any]


async def change(http: TestClient, action: str, name: str, **query: str) -> dict[str, Any]:
    async with http.post(f"/api/instances/{name}/{action}", params=query) as answer:
        body: dict[str, Any] = await answer.json()
        assert answer.status == 200, body
        return body


async def fill(http: TestClient, workers: Workers) -> tuple[list[str], list[str]]:
    """Ids of prompts that run for long, one at each, and of those that wait, some at each."""
    blockers = [await post(http, graph(LONG_S)) for _ in workers]
    await until(lambda: all(worker.started for worker in workers))
    waiting = [await post(http, graph(0.01)) for _ in range(6)]
    assert all(len(worker.submitted) == 4 for worker in workers)
    return blockers, waiting


async def test_what_waits_leaves_though_nobody_is_idle(proxy: TestClient, workers: Workers) -> None:
    """It joins the queue of the other one, which is busy as well; what runs there ends there."""
    one, two = workers
    blockers, waiting = await fill(proxy, workers)
    state = await change(proxy, "drain", "1")
    assert (state["draining"], state["empty"]) == (True, False)
    await until(lambda: len(two.submitted) == 7)
    assert {entry[1] for entry in (await get(proxy, "/queue"))["queue_pending"]} == set(waiting)
    (running,) = one.started
    emptying = asyncio.create_task(change(proxy, "drain", "1", wait="20"))
    await interrupt(proxy, running)
    assert (await emptying)["empty"]
    await interrupt(proxy, *blockers)
    await ended(proxy, *waiting)
    total(workers, [*blockers, *waiting])
    assert one.started == [running]


async def test_nothing_new_goes_there_until_it_is_resumed(
    proxy: TestClient, workers: Workers
) -> None:
    """However little it has to do, and though it was restarted meanwhile."""
    one, two = workers
    await change(proxy, "drain", "1")
    first = [await post(proxy) for _ in range(4)]
    await ended(proxy, *first)
    assert (one.submitted, two.submitted) == ([], first)
    await one.kill()
    await one.restart()
    await recover(proxy, one)
    more = [await post(proxy) for _ in range(2)]
    await ended(proxy, *more)
    assert one.submitted == []
    assert not (await change(proxy, "resume", "1"))["draining"]
    await until(lambda: takes_work(instance_of(proxy, one)))
    blockers = [await post(proxy, graph(LONG_S)) for _ in range(2)]
    await until(lambda: one.started and len(two.started) == 7)
    await interrupt(proxy, *blockers)


async def test_with_all_of_them_drained_prompts_are_refused(
    proxy: TestClient, workers: Workers
) -> None:
    """503 with ``Retry-After``, and not ready; reads are answered as before."""
    for name in ("1", "2"):
        await change(proxy, "drain", name)
    async with proxy.post("/prompt", json={"prompt": graph()}) as answer:
        told = await answer.json()
        assert (answer.status, told["code"]) == (503, "no_instance")
        assert told["error"] == "Every ComfyUI instance is drained or away."
        assert int(answer.headers["Retry-After"]) > 0
    assert (await get(proxy, "/queue"))["queue_pending"] == []
    async with proxy.get("/health/ready") as answer:
        assert answer.status == 503
    await change(proxy, "resume", "2")
    assert await ended(proxy, await post(proxy))


async def test_the_only_instance_can_be_drained(start_proxy: Start, workers: Workers) -> None:
    """Clients' prompts pass unread there; its queue tells when it is empty."""
    http = await start_proxy(workers[0])
    prompt_id = await post(http, graph(LONG_S))
    await until(lambda: workers[0].started)
    assert not (await change(http, "drain", "1"))["empty"]
    async with http.post("/prompt", json={"prompt": graph()}) as answer:
        assert (answer.status, (await answer.json())["code"]) == (503, "no_instance")
    await interrupt(http, prompt_id)
    assert (await change(http, "drain", "1", wait="20"))["empty"]


async def test_an_operator_and_a_reboot_do_not_undo_each_other(
    proxy: TestClient, workers: Workers
) -> None:
    """Each has its own say; it takes work when neither objects."""
    instance = instance_of(proxy, workers[0])
    drains = proxy.app[CLUSTER].drains
    instance.draining += 1
    await drains.drain(instance)
    drains.resume(instance)
    assert not takes_work(instance)
    await drains.drain(instance)
    instance.draining -= 1
    assert not takes_work(instance)
    drains.resume(instance)
    assert takes_work(instance)


@pytest.mark.long
async def test_what_has_left_is_not_overtaken_by_all_that_comes_later(
    proxy: TestClient, workers: Workers
) -> None:
    """The one that it left has numbered a hundred prompts, the one where it goes only a few: with
    the number that it had, all that is posted from then on would run before it."""
    _, fresh = workers
    await change(proxy, "drain", "2")
    await ended(proxy, *[await post(proxy) for _ in range(20)])
    running = await post(proxy, graph(LONG_S))
    moved = [await post(proxy, graph(0.01)) for _ in range(3)]
    await past_the_proxy.keep_busy(fresh)
    await change(proxy, "resume", "2")
    await change(proxy, "drain", "1")
    await until(lambda: set(moved) <= set(fresh.submitted))
    later = [await post(proxy, graph(0.01)) for _ in range(3)]
    await past_the_proxy.interrupt(fresh)
    await ended(proxy, *moved, *later)
    assert fresh.executed[-6:] == [*moved, *later]
    await interrupt(proxy, running)
    await ended(proxy, running)
