"""Prompts that wait at one instance go to the one that runs empty, and nobody notices (trap 24)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from prompts_front import (
    COMPLETE,
    ended,
    get,
    graph,
    instance_of,
    listening,
    post,
    recover,
    until,
)

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import GATEWAY

Workers = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Any]
LONG_S = 60.0


async def pile_up(http: Any, workers: Workers, count: int = 5, **fields: Any) -> list[str]:
    """Ids of prompts that are all at the first worker, the first of them running for long.

    The second one is hidden: it refuses connections until :func:`show`.
    """
    busy, idle = workers
    await recover(http, idle)
    idle.refuse_connections()
    idle.drop_connections()
    blocker = await post(http, graph(LONG_S), **fields)
    await until(lambda: busy.started == [blocker])
    waiting = [await post(http, graph(0.01), number=n, **fields) for n in range(1, count)]
    assert busy.submitted == [blocker, *waiting]
    return [blocker, *waiting]


async def show(http: Any, worker: EmbeddedWorker) -> None:
    """Its connections are accepted again, and the proxy knows."""
    await worker.accept_connections()
    await recover(http, worker)


async def interrupt(http: Any, *prompt_ids: str) -> None:
    for prompt_id in prompt_ids:
        async with http.post("/interrupt", json={"prompt_id": prompt_id}) as answer:
            assert answer.status == 200


def total(workers: Workers, prompt_ids: list[str]) -> None:
    """Each of them was started once, wherever that was."""
    started = [*workers[0].started, *workers[1].started]
    assert sorted(started) == sorted(prompt_ids)


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
    assert await get(proxy, "/prompt") == {"exec_info": {"queue_remaining": 0}}


async def test_deleted_while_it_moves(proxy: TestClient, workers: Workers) -> None:
    """What a client deletes while prompts move ends deleted, whichever moment it was."""
    _, *waiting = await pile_up(proxy, workers, 9)
    workers[1].faults.slow_node_s = LONG_S  # nothing ends there: only moves happen
    await show(proxy, workers[1])
    gateway = proxy.app[GATEWAY]
    for prompt_id in waiting[2:]:
        async with proxy.post("/queue", json={"delete": [prompt_id]}) as answer:
            assert answer.status == 200
    await until(lambda: not gateway.moving)
    queue = await get(proxy, "/queue")
    left = {entry[1] for entry in queue["queue_running"] + queue["queue_pending"]}
    assert not left & set(waiting[2:])
    await interrupt(proxy, *left)
    await ended(proxy, *left)


@pytest.mark.parametrize("by", ["queue", "cancel"])
async def test_deleted_on_its_way(proxy: TestClient, workers: Workers, by: str) -> None:
    """A prompt that was taken away and not yet submitted is deleted, not submitted."""
    blocker, moved, *_ = await pile_up(proxy, workers, 3)
    workers[1].faults.hang = ("/prompt",)
    await show(proxy, workers[1])
    gateway = proxy.app[GATEWAY]
    await until(lambda: moved in gateway.moving)
    if by == "queue":
        async with proxy.post("/queue", json={"delete": [moved]}) as answer:
            assert answer.status == 200
    else:
        async with proxy.post(f"/api/jobs/{moved}/cancel") as answer:
            assert answer.status in (200, 404)  # 404: an instance older than 2026
            gateway.cancelled_moves.add(moved)
    workers[1].faults.clear()
    await until(lambda: not gateway.moving)
    await interrupt(proxy, moved, blocker)
    await ended(proxy, blocker)
    await until(lambda: not workers[0]._life.instance.queue.remaining())  # type: ignore[union-attr]
    assert moved not in [*workers[0].executed, *workers[1].executed]


@pytest.mark.parametrize("fault", ["break", "500", "400", "cut"])
async def test_the_target_fails(proxy: TestClient, workers: Workers, fault: str) -> None:
    """The target breaks or refuses while a prompt moves: it arrives somewhere, and runs once."""
    blocker, *waiting = await pile_up(proxy, workers, 3)
    workers[1].faults.answers = {"/prompt": fault}
    await show(proxy, workers[1])
    gateway = proxy.app[GATEWAY]
    await until(lambda: len(workers[0].submitted) + len(workers[1].submitted) > 3)
    await until(lambda: not gateway.moving)
    workers[1].faults.clear()
    await interrupt(proxy, blocker)
    await ended(proxy, blocker, *waiting)
    total(workers, [blocker, *waiting])


async def test_the_target_dies(proxy: TestClient, workers: Workers) -> None:
    """The target dies with the prompt in hand: it goes back where it was."""
    blocker, *waiting = await pile_up(proxy, workers, 3)
    workers[1].faults.hang = ("/prompt",)
    await show(proxy, workers[1])
    await until(lambda: waiting[0] in proxy.app[GATEWAY].moving)
    workers[1].refuse_connections()
    workers[1].drop_connections()
    workers[1].faults.clear()
    await until(lambda: not proxy.app[GATEWAY].moving)
    await interrupt(proxy, blocker)
    await ended(proxy, blocker, *waiting)
    assert len(set(workers[0].executed + workers[1].executed)) == 2


async def test_a_deletion_that_is_not_answered(proxy: TestClient, workers: Workers) -> None:
    """The old place takes the prompt out and its answer is lost: the prompt is not."""
    blocker, *waiting = await pile_up(proxy, workers, 3)
    workers[0].faults.answers = {"/queue": "break"}
    asked = len(workers[0].submitted)
    await show(proxy, workers[1])
    workers[0].faults.clear()
    await ended(proxy, waiting[0])
    assert len(workers[0].submitted) == asked
    await interrupt(proxy, blocker)
    await ended(proxy, blocker, *waiting)
    total(workers, [blocker, *waiting])


async def test_nothing_moves_where_the_nodes_are_missing(
    workers: Workers, start_proxy: Start, tmp_path: Path
) -> None:
    """An idle instance without the node classes is left alone; one with them is found."""
    async with EmbeddedWorker(base_directory=tmp_path / "bare", name="bare") as bare:
        http = await start_proxy(bare, *workers)
        blocker, *waiting = await pile_up(http, workers)
        await show(http, workers[1])
        await ended(http, *waiting)
        assert workers[1].executed == waiting
        assert bare.submitted == []
        await interrupt(http, blocker)
        await ended(http, blocker)
        await http.close()


async def test_an_id_that_is_there_twice_stays(proxy: TestClient, workers: Workers) -> None:
    """Two prompts of one id both run: nobody could say which of them was taken away."""
    blocker, *_ = await pile_up(proxy, workers, 1)
    for _ in range(2):
        await post(proxy, graph(), prompt_id="twice")
    other = await post(proxy, graph())
    await show(proxy, workers[1])
    await ended(proxy, other)
    await interrupt(proxy, blocker)
    await until(lambda: [*workers[0].executed, *workers[1].executed].count("twice") == 2)


async def test_an_id_that_has_run_before(proxy: TestClient, workers: Workers) -> None:
    """A client that uses an id again loses nothing: the old history is no proof of a run."""
    await recover(proxy, workers[1])
    workers[1].refuse_connections()
    workers[1].drop_connections()
    await ended(proxy, await post(proxy, prompt_id="again"))
    blocker = await post(proxy, graph(LONG_S))
    await until(lambda: workers[0].started[-1] == blocker)
    await post(proxy, graph(), prompt_id="again")
    other = await post(proxy, graph())
    await show(proxy, workers[1])
    await ended(proxy, other)
    await interrupt(proxy, blocker)
    await until(lambda: [*workers[0].executed, *workers[1].executed].count("again") == 2)


async def test_a_browser_s_prompt_moves(proxy: TestClient, workers: Workers) -> None:
    """The Origin of a browser is the new instance's own there, or it would be refused."""
    busy, idle = workers
    await pile_up(proxy, workers, 1)
    origin = str(proxy.make_url("")).rstrip("/")
    async with proxy.post("/prompt", json={"prompt": graph()}, headers={"Origin": origin}) as one:
        prompt_id = (await one.json())["prompt_id"]
    prompt = proxy.app[GATEWAY].mover._waiting[prompt_id]
    for worker in workers:
        assert prompt.headers[instance_of(proxy, worker)]["Origin"] == worker.url
    second = await post(proxy, graph())
    await show(proxy, idle)
    await ended(proxy, prompt_id)
    assert idle.executed[0] == prompt_id
    await interrupt(proxy, busy.started[0])
    await ended(proxy, second)


async def test_shutdown_in_mid_move(workers: Workers, start_proxy: Start) -> None:
    """The proxy stops while a prompt is on its way: it arrives."""
    http = await start_proxy(*workers)
    _, *waiting = await pile_up(http, workers, 3)
    workers[1].faults.hang = ("/prompt",)
    await show(http, workers[1])
    await until(lambda: waiting[0] in http.app[GATEWAY].moving)
    await until(lambda: len(workers[0]._life.instance.queue.snapshot()["queue_pending"]) == 1)  # type: ignore[union-attr]
    closing = asyncio.create_task(http.close())
    await asyncio.sleep(0)
    workers[1].faults.clear()
    await closing
    await until(lambda: waiting[0] in [*workers[0].submitted[3:], *workers[1].submitted])
    queues = [worker._life.instance.queue for worker in workers]  # type: ignore[union-attr]
    await until(lambda: workers[1].executed or queues[1].remaining())
    assert [*workers[0].submitted, *workers[1].submitted].count(waiting[0]) == 2
