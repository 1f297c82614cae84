"""Prompts that wait at one instance go to the one that runs empty, and nobody notices (trap 24)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from ledger_front import moves
from prompts_front import (
    COMPLETE,
    LONG_S,
    ended,
    get,
    graph,
    interrupt,
    listening,
    pile_up,
    post,
    show,
    total,
    until,
)

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import GATEWAY

Workers = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Any]


async def test_waiting_prompts_move_and_run_once(proxy: TestClient, workers: Workers) -> None:
    """They run under the same ids with their numbers, in order; the running one stays."""
    busy, idle = workers
    blocker, *waiting = await pile_up(proxy, workers)
    await show(proxy, idle)
    entries = await ended(proxy, *waiting)
    assert idle.executed == waiting
    assert [entries[prompt_id]["prompt"][0] for prompt_id in waiting] == [1.0, 2.0, 3.0, 4.0]
    assert busy.started == [blocker]
    await interrupt(proxy, blocker)
    await ended(proxy, blocker)
    total(workers, [blocker, *waiting])


async def test_its_events_follow(proxy: TestClient, workers: Workers) -> None:
    """A client hears each moved prompt once, complete and in order, and never a sum of 0."""
    async with listening(proxy) as listener:
        blocker, *waiting = await pile_up(proxy, workers, client_id=listener.client_id)
        await show(proxy, workers[1])
        await until(lambda: all(listener.over(prompt_id) for prompt_id in waiting))
        for prompt_id in waiting:
            assert listener.kinds(prompt_id) == COMPLETE
        since = next(i for i, f in enumerate(listener.frames) if f["type"] == "execution_start")
        told = [
            frame["data"]["status"]["exec_info"]["queue_remaining"]
            for frame in listener.frames[since:]
            if frame["type"] == "status"
        ]
        assert min(told) >= 1
        await interrupt(proxy, blocker)
        await until(lambda: listener.sums()[-1] == 0)


@asynccontextmanager
async def hammering(http: Any, prompt_ids: list[str]) -> AsyncIterator[list[str]]:
    """Ask all views over and over; what is wrong with them."""
    faults: list[str] = []
    looks = [0, 0, 0]
    stop = asyncio.Event()

    async def lengths() -> None:
        """The sum never falls faster than prompts end."""
        while not stop.is_set():
            before = len((await get(http, "/history")).keys() & set(prompt_ids))
            found = (await get(http, "/prompt"))["exec_info"]["queue_remaining"]
            after = len((await get(http, "/history")).keys() & set(prompt_ids))
            if found < len(prompt_ids) - after:
                faults.append(f"/prompt says {found}, {before} to {after} have ended")
            looks[0] += 1

    async def ids() -> None:
        while not stop.is_set():
            queue = await get(http, "/queue")
            shown = [entry[1] for entry in queue["queue_running"] + queue["queue_pending"]]
            history = await get(http, "/history")
            if lost := set(prompt_ids) - set(shown) - set(history):
                faults.append(f"nowhere: {lost}")
            if len(shown) != len(set(shown)):
                faults.append(f"twice: {shown}")
            looks[1] += 1

    tasks = [asyncio.create_task(lengths()), asyncio.create_task(ids())]
    try:
        yield faults
        await until(lambda: looks[0] >= 3 and looks[1] >= 3)
    finally:
        stop.set()
        await asyncio.gather(*tasks)


@pytest.mark.long
@pytest.mark.parametrize("client_id", [None, "polls-only"])
async def test_no_view_misses_it(
    proxy: TestClient, workers: Workers, client_id: str | None
) -> None:
    """While prompts move no id is nowhere or twice, and no count dips; with a client_id or not."""
    fields = {} if client_id is None else {"client_id": client_id}
    prompt_ids = await pile_up(proxy, workers, 12, **fields)
    blocker, *waiting = prompt_ids
    async with hammering(proxy, prompt_ids) as faults:
        await show(proxy, workers[1])
        await ended(proxy, *waiting)
    assert faults == []
    await interrupt(proxy, blocker)
    await ended(proxy, blocker)
    total(workers, prompt_ids)


async def test_no_sum_dips_or_stays_too_high(proxy: TestClient, workers: Workers) -> None:
    """While prompts move and none ends, no socket is told of fewer, and the last word is true."""
    async with listening(proxy) as mine, listening(proxy) as other:
        prompt_ids = await pile_up(proxy, workers, 9, client_id=mine.client_id)
        workers[1].faults.slow_node_s = LONG_S  # the first that arrives there stays
        await until(lambda: mine.sums()[-1] == other.sums()[-1] == 9)
        heard = len(mine.sums()), len(other.sums())
        await show(proxy, workers[1])
        await until(lambda: workers[1].queue_remaining >= 2)
        await until(lambda: not moves(proxy.app[GATEWAY]))
        assert await get(proxy, "/prompt") == {"exec_info": {"queue_remaining": 9}}
        for listener, since in zip((mine, other), heard, strict=True):
            assert min(listener.sums()[since:]) == 9
        async with proxy.post("/queue", json={"delete": prompt_ids[1:]}) as answer:
            assert answer.status == 200
        await interrupt(proxy, *workers[0].started, *workers[1].started)
        await until(lambda: mine.sums()[-1] == other.sums()[-1] == 0)


async def test_who_reads_a_result_of_another_one_stays_with_it_and_others_go(
    proxy: TestClient, workers: Workers
) -> None:
    """Both run where they are, in their order: elsewhere there is no such file yet."""
    blocker, *_ = await pile_up(proxy, workers, 1)
    maker = await post(proxy, graph(0.01, prefix="made/first"))
    reading = graph(0.01)
    reading["3"]["inputs"]["file"] = "made/first_00001_.png"
    reader = await post(proxy, reading)
    others = [await post(proxy, graph(0.01)) for _ in range(2)]
    await show(proxy, workers[1])
    await ended(proxy, *others)
    assert workers[1].executed == others
    await interrupt(proxy, blocker)
    await ended(proxy, maker, reader)
    assert workers[0].started == [blocker, maker, reader]
