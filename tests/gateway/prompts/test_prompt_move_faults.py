"""What can go wrong while a prompt moves: it is never lost, and never runs twice (trap 24)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from ledger_front import moves
from prompts_front import (
    ended,
    get,
    graph,
    instance_of,
    interrupt,
    pile_up,
    post,
    recover,
    show,
    total,
    until,
)

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info.graph_support import UNKNOWN_LACK
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import CLUSTER, GATEWAY

Workers = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Any]
LONG_S = 60.0


async def test_deleted_while_it_moves(proxy: TestClient, workers: Workers) -> None:
    """What a client deletes while prompts move ends deleted, whichever moment it was."""
    _, *waiting = await pile_up(proxy, workers, 9)
    workers[1].faults.slow_node_s = LONG_S  # nothing ends there: only moves happen
    await show(proxy, workers[1])
    gateway = proxy.app[GATEWAY]
    for prompt_id in waiting[1:]:
        async with proxy.post("/queue", json={"delete": [prompt_id]}) as answer:
            assert answer.status == 200
    await until(lambda: not moves(gateway))
    queue = await get(proxy, "/queue")
    left = {entry[1] for entry in queue["queue_running"] + queue["queue_pending"]}
    assert not left & set(waiting[1:])
    await until(lambda: waiting[0] in workers[1].started)
    await interrupt(proxy, *left)
    await ended(proxy, *left)


async def test_deleted_on_its_way(proxy: TestClient, workers: Workers) -> None:
    """A prompt that is deleted while its new place has not answered yet does not run there."""
    blocker, moved, *_ = await pile_up(proxy, workers, 3)
    workers[1].faults.hang = ("/prompt",)
    workers[1].faults.slow_node_s = LONG_S
    await show(proxy, workers[1])
    gateway = proxy.app[GATEWAY]
    await until(lambda: sent_to(gateway, moved))
    async with proxy.post("/queue", json={"delete": [moved]}) as answer:
        assert answer.status == 200
    workers[1].faults.hang = ()
    await until(lambda: moved not in gateway.ledger)  # it was withdrawn where it arrived
    workers[1].faults.slow_node_s = 0
    await interrupt(proxy, blocker)
    await ended(proxy, blocker)
    await until(lambda: not any(worker.queue_remaining for worker in workers))
    assert moved not in [*workers[0].executed, *workers[1].executed]


def sent_to(gateway: Any, prompt_id: str) -> Instance | None:
    """Which instance is being sent the prompt that moves."""
    prompt = gateway.ledger.transit.find(prompt_id)
    return None if prompt is None else prompt.target


@pytest.mark.long
@pytest.mark.parametrize("fault", ["break", "500", "400", "cut"])
async def test_the_target_fails(proxy: TestClient, workers: Workers, fault: str) -> None:
    """The target breaks or refuses while a prompt moves: it arrives somewhere, and runs once."""
    blocker, *waiting = await pile_up(proxy, workers, 3)
    workers[1].faults.answers = {"/prompt": fault}
    await show(proxy, workers[1])
    gateway = proxy.app[GATEWAY]
    await until(lambda: len(workers[0].submitted) + len(workers[1].submitted) > 3)
    await until(lambda: not moves(gateway))
    workers[1].faults.clear()
    await interrupt(proxy, blocker)
    await ended(proxy, blocker, *waiting)
    total(workers, [blocker, *waiting])


async def test_the_target_does_not_tell_what_it_can_run(
    proxy: TestClient, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for its classes it fails, and a moment later it does not: what waits behind a long
    prompt moves then, and not with the next check of its interval (30 s)."""
    blocker, waiting = await pile_up(proxy, workers, 2)
    workers[1].faults.answers = {"/object_info": "500"}
    support, told = proxy.app[CLUSTER].graph_support, []
    lacks = support.lacks

    async def noted(*of: Any) -> float:
        told.append(await lacks(*of))
        workers[1].faults.clear()
        return told[-1]

    monkeypatch.setattr(support, "lacks", noted)
    await show(proxy, workers[1])
    await until(lambda: told)
    assert told[0] == UNKNOWN_LACK
    await ended(proxy, waiting)
    assert waiting in workers[1].executed
    await interrupt(proxy, blocker)
    await ended(proxy, blocker)


async def test_the_target_dies(proxy: TestClient, workers: Workers) -> None:
    """The target dies with the prompt in hand: it goes back where it was."""
    blocker, *waiting = await pile_up(proxy, workers, 3)
    workers[1].faults.hang = ("/prompt",)
    await show(proxy, workers[1])
    await until(lambda: moves(proxy.app[GATEWAY], waiting[0]))
    workers[1].refuse_connections()
    workers[1].drop_connections()
    workers[1].faults.clear()
    await until(lambda: not moves(proxy.app[GATEWAY]))
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


@pytest.mark.long
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


async def test_a_missed_check_delays_a_move_and_no_more(
    proxy: TestClient, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle instance that was busy for a moment is looked at until it answers."""
    blocker, *waiting = await pile_up(proxy, workers, 3)
    checker, missed = proxy.app[CLUSTER].health_checker, []
    check = checker.check

    async def miss_some(instance: Instance) -> bool:
        task = asyncio.current_task()
        if task is not None and task.get_name() == "even out prompts" and len(missed) < 5:
            missed.append(instance)
            return False
        return await check(instance)

    monkeypatch.setattr(checker, "check", miss_some)
    await show(proxy, workers[1])
    await ended(proxy, *waiting)
    assert [instance.host for instance in missed] == [workers[1].host] * 5
    await interrupt(proxy, blocker)
    await ended(proxy, blocker)


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
    """The Origin of a browser is no instance's, and is told to none, or it would be refused."""
    busy, idle = workers
    await pile_up(proxy, workers, 1)
    origin = str(proxy.make_url("")).rstrip("/")
    async with proxy.post("/prompt", json={"prompt": graph()}, headers={"Origin": origin}) as one:
        prompt_id = (await one.json())["prompt_id"]
    prompt = proxy.app[GATEWAY].ledger.find(prompt_id)
    for worker in workers:
        assert "Origin" not in prompt.post.headers[instance_of(proxy, worker)]
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
    await until(lambda: moves(http.app[GATEWAY], waiting[0]))
    await until(lambda: workers[0].queue_remaining == 2)
    closing = asyncio.create_task(http.close())
    await asyncio.sleep(0)
    workers[1].faults.clear()
    await closing
    await until(lambda: waiting[0] in [*workers[0].submitted[3:], *workers[1].submitted])
    await until(lambda: workers[1].executed or workers[1].queue_remaining)
    assert [*workers[0].submitted, *workers[1].submitted].count(waiting[0]) == 2
