"""Trap 24: a prompt that waits can be moved, one that runs stays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from cluster_harness import LONG_S, Run, eventually, graph, nothing_left, running, somebody, waiting

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.errors import PromptLostError
from comfy_proxy.ledger.events import Change, TakenAway

Pair = tuple[EmbeddedWorker, EmbeddedWorker]


@pytest.fixture
async def pair(connected: Callable[..., Awaitable[Cluster]], workers: Pair) -> Cluster:
    return await connected(*workers)


async def test_waiting_prompt_moves(pair: Cluster, workers: Pair) -> None:
    """It is taken out of the queue, provably never ran, and goes on at the offered place."""
    await somebody(pair, graph(seconds=LONG_S))
    run = Run(pair, graph(colour=2))
    await run.waits_there(workers[0])
    target = Placement(pair.instances[1])
    run.offer(target)
    assert await run.task is target
    assert pair.instances[1].placements == [target]
    assert pair.instances[0].placements == []
    assert waiting(workers[0]) == []
    await eventually(lambda: workers[0].started)  # its thread may be slower than all this
    assert workers[0].started == running(workers[0]) == ["theirs"]
    target.release()
    await pair.clients[pair.instances[0]].interrupt("theirs")
    await nothing_left(pair, *workers)


async def test_running_prompt_stays(pair: Cluster, workers: Pair) -> None:
    """One that runs declines: the offered place is given back, the prompt ends where it is."""
    run = Run(pair, graph(seconds=0.3))
    await run.running()
    run.offer(Placement(pair.instances[1]))
    await eventually(lambda: not pair.instances[1].placements)
    assert not run.task.done()
    assert await run.task
    assert workers[0].executed == [run.prompt.prompt_id]
    assert workers[1].submitted == []
    await nothing_left(pair, *workers)


async def test_prompt_that_began_unheard_stays(pair: Cluster, workers: Pair) -> None:
    """Where the frames are late the queue decides: it runs, so it stays."""
    workers[0].faults.silent_sockets = True
    run = Run(pair, graph(seconds=0.3))
    await eventually(lambda: running(workers[0]) and run.updates)
    assert not run.placement.running
    run.offer(Placement(pair.instances[1]))
    await eventually(lambda: not pair.instances[1].placements)
    assert not run.placement.is_leaving
    workers[0].faults.silent_sockets = False
    assert await run.task
    assert workers[1].submitted == []


async def test_what_is_told_of_the_queue_while_one_is_taken_away_counts_without_it(
    pair: Cluster, workers: Pair
) -> None:
    """Else one of the others would be missing from the load of its instance afterwards, until that
    tells of its queue again."""
    one, two = pair.instances
    await somebody(pair, graph(seconds=LONG_S))
    run = Run(pair, graph(colour=2))
    await run.waits_there(workers[0])
    await somebody(pair, graph(colour=3), "theirs too")
    await eventually(lambda: one.load == 3)
    workers[0].faults.hang = ("/history",)
    run.offer(Placement(two))
    await eventually(lambda: workers[0].faults._waiters)
    await eventually(lambda: one.prompts.queue_remaining == 2)
    assert one.load == 3
    workers[0].faults.clear()
    target = await run.task
    assert isinstance(target, Placement)
    assert one.load == 2
    target.release()
    await pair.clients[one].delete("theirs too")
    await pair.clients[one].interrupt("theirs")
    await nothing_left(pair, *workers)


async def test_offer_during_the_submission(pair: Cluster, workers: Pair) -> None:
    """An offer that comes before the POST is answered is considered after it."""
    await somebody(pair, graph(seconds=LONG_S))
    workers[0].faults.hang = ("/prompt",)
    run = Run(pair, graph(colour=2))
    await eventually(lambda: workers[0].faults._waiters)
    run.offer(Placement(pair.instances[1]))
    workers[0].faults.clear()
    assert isinstance(await run.task, Placement)
    assert workers[0].submitted[1:] == [run.prompt.prompt_id]
    await eventually(lambda: workers[0].started)  # its thread may be slower than all this
    assert workers[0].started == ["theirs"]


async def test_offer_when_the_socket_is_lost(pair: Cluster, workers: Pair) -> None:
    """Whoever has lost its socket declines: what it may withdraw it cannot be sure of."""
    await somebody(pair, graph(seconds=LONG_S))
    run = Run(pair, graph(colour=2, seconds=0.05))
    await run.waits_there(workers[0])
    workers[0].faults.hang = ("/queue",)
    run.offer(Placement(pair.instances[1]))
    await eventually(lambda: workers[0].faults._waiters)
    workers[0].drop_sockets()
    run.task.cancel()
    workers[0].faults.clear()
    await asyncio.wait([run.task])
    assert pair.instances[1].placements == []
    await pair.clients[pair.instances[0]].interrupt("theirs")
    await nothing_left(pair, *workers)


async def test_a_socket_lost_in_mid_move_ends_no_job(pair: Cluster, workers: Pair) -> None:
    """The offer is declined while the prompt is being deleted: it is gone, and runs again."""
    await somebody(pair, graph(seconds=LONG_S))
    run = Run(pair, graph(colour=2, seconds=0.05))
    await run.waits_there(workers[0])
    workers[0].faults.hang = ("/queue",)
    run.offer(Placement(pair.instances[1]))
    await eventually(lambda: workers[0].faults._waiters)
    workers[0].drop_sockets()
    await eventually(lambda: not run.placement.movable and run.placement.move_to is None)
    workers[0].faults.clear()
    with pytest.raises(PromptLostError):
        await run.task
    assert [instance.placements for instance in pair.instances] == [[], []]


async def test_cancelled_in_mid_move(pair: Cluster, workers: Pair) -> None:
    """A job cancelled while it is withdrawn leaves neither place taken."""
    await somebody(pair, graph(seconds=LONG_S))
    run = Run(pair, graph(colour=2))
    await run.waits_there(workers[0])
    workers[0].faults.hang = ("/queue",)
    run.offer(Placement(pair.instances[1]))
    await eventually(lambda: workers[0].faults._waiters)
    run.task.cancel()
    workers[0].faults.clear()
    await asyncio.wait([run.task])
    assert run.task.cancelled()
    assert [instance.placements for instance in pair.instances] == [[], []]
    assert waiting(workers[0]) == []


async def test_cancelled_in_the_moment_of_its_move(pair: Cluster, workers: Pair) -> None:
    """A job cancelled as its prompt has just been taken away leaves neither place taken."""
    await somebody(pair, graph(seconds=LONG_S))
    run = Run(pair, graph(colour=2))
    await run.waits_there(workers[0])

    def cancel(change: Change) -> None:
        if isinstance(change.event, TakenAway):
            run.task.cancel()

    run.prompt._ledger.observers.append(cancel)
    run.offer(Placement(pair.instances[1]))
    await asyncio.wait([run.task])
    assert run.task.cancelled()
    assert [instance.placements for instance in pair.instances] == [[], []]
    await pair.clients[pair.instances[0]].interrupt("theirs")
    await nothing_left(pair, *workers)


async def test_offer_unanswered_at_the_end(pair: Cluster, workers: Pair) -> None:
    """A prompt that ends before it reads the offer gives the place back."""
    run = Run(pair, graph(seconds=0.1))
    await run.running()
    workers[0].faults.hang = ("/view",)
    await eventually(lambda: workers[0].faults._waiters)
    assert run.instance.placements == []  # given back before the download
    workers[0].faults.clear()
    await run.task
    await nothing_left(pair, *workers)
