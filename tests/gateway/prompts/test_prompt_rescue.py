"""What an instance takes along when it dies runs elsewhere; nothing else is run again (trap 5)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from ledger_front import accepted, leave, moves, take
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
    recover,
    show,
    until,
)

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import CLUSTER, GATEWAY

Workers = tuple[EmbeddedWorker, EmbeddedWorker]


async def die(worker: EmbeddedWorker) -> None:
    """As by ``kill -9``."""
    await worker.kill()


async def known(proxy: Any, workers: Workers, prompt_ids: list[str]) -> None:
    """The proxy has heard how many wait at the first worker."""
    instance = proxy.app[GATEWAY].cluster.instances[0]
    await until(lambda: instance.prompts.queue_remaining == len(prompt_ids))


@pytest.mark.long
@pytest.mark.parametrize("listens", [True, False])
async def test_waiting_and_running_prompts_go_on(
    proxy: TestClient, workers: Workers, listens: bool
) -> None:
    """Under their ids, each once; whoever listens hears the waiting ones complete and once."""
    async with listening(proxy) as listener:
        fields = {"client_id": listener.client_id} if listens else {}
        prompt_ids = await pile_up(proxy, workers, 4, seconds=0.3, **fields)
        await known(proxy, workers, prompt_ids)
        await die(workers[0])
        await show(proxy, workers[1])
        entries = await ended(proxy, *prompt_ids)
        assert sorted(workers[1].executed) == sorted(prompt_ids)
        assert all(entries[one]["status"]["status_str"] == "success" for one in prompt_ids)
        if listens:
            await until(lambda: all(listener.over(one) for one in prompt_ids))
            for prompt_id in prompt_ids[1:]:
                assert listener.kinds(prompt_id) == COMPLETE


@pytest.mark.long
async def test_one_that_was_started_again_gets_them_too(
    proxy: TestClient, workers: Workers
) -> None:
    """The other instance stays away: the prompts run where they were, after the restart."""
    prompt_ids = await pile_up(proxy, workers, 3, seconds=0.3)
    await known(proxy, workers, prompt_ids)
    await workers[0].restart()
    await recover(proxy, workers[0])
    await ended(proxy, *prompt_ids)
    assert sorted(workers[0].executed) == sorted(prompt_ids)


async def test_what_has_ended_or_was_deleted_is_not_run_again(
    proxy: TestClient, workers: Workers
) -> None:
    """Prompts that nobody listens to, too."""
    await recover(proxy, workers[1])
    workers[1].refuse_connections()
    workers[1].drop_connections()
    over = [await post(proxy, graph()) for _ in range(3)]
    await ended(proxy, *over)
    blocker = await post(proxy, graph(LONG_S))
    await until(lambda: workers[0].started[-1] == blocker)
    deleted = await post(proxy, graph())
    async with proxy.post("/queue", json={"delete": [deleted]}) as answer:
        assert answer.status == 200
    await known(proxy, workers, [blocker])
    await die(workers[0])
    await show(proxy, workers[1])
    await until(lambda: blocker in workers[1].started)
    await interrupt(proxy, blocker)
    await ended(proxy, blocker)
    assert workers[1].submitted == [blocker]


async def test_one_that_only_fell_silent_keeps_them(proxy: TestClient, workers: Workers) -> None:
    """Its sockets break and it is silent for a while: nothing is proven, nothing runs twice."""
    blocker, *waiting = await pile_up(proxy, workers, 3, seconds=0.3)
    await known(proxy, workers, [blocker, *waiting])
    workers[0].faults.hang = ("/",)
    workers[0].drop_connections()
    await asyncio.sleep(0)
    workers[0].faults.clear()
    await recover(proxy, workers[0])
    await ended(proxy, blocker, *waiting)
    assert sorted([*workers[0].executed, *workers[1].executed]) == sorted([blocker, *waiting])
    queue = await get(proxy, "/queue")
    assert queue == {"queue_running": [], "queue_pending": []}


async def test_a_newer_prompt_of_the_same_id_is_not_lost_with_the_older(
    tmp_path: Path, start_proxy: Callable[..., Any]
) -> None:
    """A client that posts anew, under the same id, what was lost with the only instance that could
    run it, has posted another prompt: that survives the death of its own instance, and ends."""
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(
                EmbeddedWorker(base_directory=tmp_path / name, name=name, test_nodes=name == "one")
            )
            for name in ("one", "two")
        ]
        proxy = await start_proxy(one, two)
        gateway = proxy.app[GATEWAY]
        for worker in (one, two):
            await recover(proxy, worker)
        await post(proxy, graph(LONG_S), prompt_id="same")
        await until(lambda: one.started == ["same"])
        await die(one)
        await until(lambda: moves(gateway, "same"))
        two.faults.slow_node_s = LONG_S
        anywhere = {name: node for name, node in graph().items() if name != "2"}
        anywhere["3"]["inputs"]["images"] = ["1", 0]
        await post(proxy, anywhere, prompt_id="same")
        await recover(proxy, two)
        await until(lambda: not moves(gateway, "same"))
        two.faults.clear()
        await two.restart()
        await recover(proxy, two)
        entries = await ended(proxy, "same")
        assert entries["same"]["status"]["status_str"] == "success"
        await until(lambda: "same" not in gateway.ledger)
        prompts = (await get(proxy, "/metrics"))["prompts"]
        assert (prompts["completed"], prompts["cancelled"]) == (1, 0)


async def test_of_two_moves_of_one_id_each_ends_for_itself(proxy: TestClient) -> None:
    """The older one ends when the newer one is taken, and the newer one is found by the id."""
    ledger, (one, two) = proxy.app[GATEWAY].ledger, proxy.app[CLUSTER].instances
    older = accepted(ledger, "same", one)
    leave(ledger, older)
    newer = accepted(ledger, "same", two)
    assert older.ended
    leave(ledger, newer)
    assert ledger.transit.find("same") is newer
    take(ledger, newer, one)
    assert not moves(proxy.app[GATEWAY])


@pytest.mark.parametrize(
    ("prompt_id", "answers"), [("a" * 9_000, {}), ("plain", {"/history": "500"})]
)
async def test_what_has_ended_unheard_is_not_run_again(
    proxy: TestClient, workers: Workers, prompt_id: str, answers: dict[str, str]
) -> None:
    """An id that is too long for a path is looked for in the whole history; an instance that has
    its queue but no history to show is asked again until it has."""
    await recover(proxy, workers[1])
    await post(proxy, graph(0.3), prompt_id=prompt_id)
    await until(lambda: workers[0].started or workers[1].started)
    worker, other = workers if workers[0].started else workers[::-1]
    worker.faults.hang = ("/",)
    worker.drop_connections()
    await until(lambda: worker.executed == [prompt_id])
    worker.faults.clear()
    worker.faults.answers = answers
    for _ in range(3):
        await recover(proxy, worker)
    worker.faults.clear()
    await recover(proxy, worker)
    ledger, instances = proxy.app[GATEWAY].ledger, proxy.app[CLUSTER].instances
    await until(lambda: not (len(ledger.transit) or any(map(ledger.doubtful, instances))))
    assert [*worker.started, *other.started] == [prompt_id]
