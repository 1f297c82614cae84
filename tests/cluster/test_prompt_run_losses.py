"""Sockets, connections and instances that are lost under a prompt (traps 4, 5 and 9)."""

from __future__ import annotations

import asyncio

import pytest
from cluster_harness import (
    LONG_S,
    Run,
    eventually,
    graph,
    nothing_left,
    running,
    second_look,
    somebody,
)
from manual_clock import ManualClock

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.errors import (
    InstanceTimeoutError,
    InstanceUnreachableError,
    InvalidAnswerError,
    PromptLostError,
    WorkflowError,
)


async def test_socket_lost_while_running(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """A dropped socket is not a failed job: it is settled by /queue and /history (trap 4)."""
    run = Run(cluster, graph(seconds=0.3))
    await run.running()
    worker.drop_sockets()
    assert await run.task
    assert worker.submitted == worker.executed == [run.prompt.prompt_id]
    assert run.updates[-1][1] == 100
    await nothing_left(cluster, worker)


async def test_socket_lost_while_waiting(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """The same while others' prompts are before it: it keeps its turn, is not moved any more."""
    await somebody(cluster, graph(seconds=LONG_S))
    run = Run(cluster, graph(colour=2, seconds=0.05))
    await run.waits_there(worker)
    worker.drop_sockets()
    await eventually(lambda: not run.placement.movable and worker.open_sockets)
    await cluster.clients[run.instance].interrupt("theirs")
    assert await run.task
    assert worker.submitted == ["theirs", run.prompt.prompt_id]


async def test_socket_lost_at_the_end(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """The end itself may be what was lost: history knows it."""
    run = Run(cluster, graph(seconds=0.2))
    await run.running()
    worker.faults.silent_sockets = True
    await eventually(lambda: worker.executed)
    worker.faults.silent_sockets = False
    worker.drop_sockets()
    assert await run.task
    assert worker.executed == [run.prompt.prompt_id]


async def test_error_while_the_socket_was_lost(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """A node's error is told even if nobody listened when it came."""
    worker.faults.slow_node_s = LONG_S
    run = Run(cluster, graph())
    await run.running()
    worker.drop_sockets()
    await eventually(lambda: worker.open_sockets == 1)
    worker.faults.disk_full = True
    worker.faults.slow_node_s = 0.0
    life = worker._life
    assert life is not None
    life.instance.executor._interrupt.set()
    with pytest.raises(Exception, match="interrupted at the instance"):
        await run.task
    second = Run(cluster, graph(colour=5, seconds=0.2))
    await second.running()
    worker.drop_sockets()
    with pytest.raises(WorkflowError, match="No space left"):
        await second.task


async def test_socket_lost_before_the_prompt_for_it_began(
    cluster: Cluster, worker: EmbeddedWorker
) -> None:
    """A picture that would go to the lost socket is not waited for: the prompt is withdrawn."""
    await somebody(cluster, graph(seconds=LONG_S))
    run = Run(cluster, graph(colour=2, seconds=LONG_S, by_frame=True))
    await run.waits_there(worker)
    worker.drop_sockets()
    with pytest.raises(PromptLostError):
        await run.task
    await eventually(lambda: not cluster._chores)
    assert running(worker) == ["theirs"]
    await cluster.clients[run.instance].interrupt("theirs")
    await nothing_left(cluster, worker)
    assert worker.executed == []
    assert run.instance.healthy


async def test_socket_lost_while_the_prompt_for_it_runs(
    cluster: Cluster, worker: EmbeddedWorker
) -> None:
    """It goes on to its end: all that it made is in ComfyUI's cache then."""
    run = Run(cluster, graph(colour=2, seconds=0.2, by_frame=True))
    await run.running()
    worker.drop_sockets()
    with pytest.raises(PromptLostError):
        await run.task
    await nothing_left(cluster, worker)
    assert worker.executed == [run.prompt.prompt_id]
    assert run.instance.healthy


async def test_picture_missed_at_the_end(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """A frame that was sent while nobody listened is lost, and the job may run again."""
    run = Run(cluster, graph(seconds=0.2, by_frame=True))
    await run.running()
    worker.faults.silent_sockets = True
    await eventually(lambda: worker.executed)
    worker.faults.silent_sockets = False
    worker.drop_sockets()
    with pytest.raises(PromptLostError):
        await run.task


async def test_sockets_that_never_hold(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """An instance that drops every socket is given up after a few."""
    run = Run(cluster, graph(seconds=LONG_S))
    await run.running()

    def dropped_again() -> bool:
        worker.drop_sockets()
        return run.task.done()

    await eventually(dropped_again)
    with pytest.raises(InstanceUnreachableError, match="drops every WebSocket"):
        await run.task
    await nothing_left(cluster, worker)


async def test_restart_in_mid_prompt(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """A restarted instance has forgotten: the prompt is lost, not waited for (trap 5)."""
    run = Run(cluster, graph(seconds=LONG_S))
    await run.running()
    await worker.restart()
    with pytest.raises((PromptLostError, InstanceUnreachableError)):
        await run.task
    await nothing_left(cluster, worker)


async def test_restart_before_the_socket_is_back(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """The same when the restart is over before the question: neither in /queue nor /history."""
    run = Run(cluster, graph(seconds=LONG_S))
    await run.running()
    worker.faults.hang = ("/ws",)
    worker.drop_sockets()
    await eventually(lambda: worker.faults._waiters)
    await worker.restart()
    worker.faults.clear()
    with pytest.raises((PromptLostError, InstanceUnreachableError)):
        await run.task
    await nothing_left(cluster, worker)


async def test_death_in_mid_prompt(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """An instance that dies under the prompt fails it at once, with a strike."""
    worker.faults.die_at_node = "TimedPass"
    run = Run(cluster, graph(seconds=1))
    with pytest.raises(InstanceUnreachableError):
        await run.task
    assert run.instance.breaker.consecutive_failures
    await nothing_left(cluster)


async def test_broken_off_after_it_was_accepted(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """A POST that was accepted is not repeated, though its answer was lost (trap 9)."""
    worker.faults.break_prompts = 1
    run = Run(cluster, graph(seconds=0.1))
    assert await run.task
    assert worker.submitted == worker.executed == [run.prompt.prompt_id]
    await nothing_left(cluster, worker)


async def test_broken_off_after_it_had_ended(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """The same for one that was done before the question came: it is found in the history."""
    await Run(cluster, graph()).task
    worker.faults.break_prompts = 1
    run = Run(cluster, graph())
    assert await run.task
    assert worker.executed[1:] == [run.prompt.prompt_id]


async def test_broken_off_and_not_accepted(
    cluster: Cluster, worker: EmbeddedWorker, clock: ManualClock
) -> None:
    """A POST that never arrived fails, and nothing of it turns up later."""
    worker.faults.answers = {"/prompt": "503"}
    run = Run(cluster, graph())
    await second_look(clock)
    with pytest.raises(InstanceUnreachableError):
        await run.task
    assert worker.submitted == []
    await nothing_left(cluster, worker)


async def test_accepted_with_an_answer_that_is_none(
    cluster: Cluster, worker: EmbeddedWorker
) -> None:
    """A prompt whose acceptance cannot be read is withdrawn in the background."""
    worker.faults.answers = {"/prompt": "cut", "/history": "html"}
    run = Run(cluster, graph(seconds=LONG_S))
    await eventually(lambda: worker.submitted)
    await run.running()
    worker.faults.answers = {}
    run.task.cancel()
    await asyncio.wait([run.task])
    await nothing_left(cluster, worker)


async def test_hung_submission(
    cluster: Cluster, worker: EmbeddedWorker, clock: ManualClock
) -> None:
    """A POST without an answer ends as a timeout; the withdrawal does not hold the job up."""
    worker.faults.hang = ("/prompt", "/queue")
    run = Run(cluster, graph())
    await eventually(lambda: worker.faults._waiters)
    await clock.advance(60)
    with pytest.raises(InstanceTimeoutError):
        await run.task
    assert run.instance.placements == []
    await eventually(lambda: clock.waiting == 2)
    await clock.advance(5)
    await nothing_left(cluster)


async def test_broken_history(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """What cannot be settled because the instance answers nonsense is the instance's fault."""
    run = Run(cluster, graph(seconds=0.2))
    await run.running()
    worker.faults.answers = {"/history": "html"}
    worker.drop_sockets()
    with pytest.raises(InvalidAnswerError):
        await run.task
