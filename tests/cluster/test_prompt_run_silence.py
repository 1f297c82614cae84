"""COMFYUI_TIMEOUT: silence is asked about; only an instance that does not answer is hung."""

from __future__ import annotations

import threading

import pytest
from cluster_harness import LONG_S, Run, eventually, graph, nothing_left, somebody
from manual_clock import ManualClock

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.errors import InstanceTimeoutError, JobTimeoutError, PromptLostError
from comfy_proxy.jobs.runs.prompt_follower import MAX_RENEWALS


@pytest.fixture
async def silent(cluster: Cluster, worker: EmbeddedWorker, clock: ManualClock) -> Run:
    """A prompt whose first node is silent for as long as the test lasts."""
    worker.faults.slow_node_s = LONG_S
    run = Run(cluster, graph())
    await eventually(lambda: run.prompt.execution.current_node and clock.waiting == 1)
    return run


async def asked(run: Run, clock: ManualClock, renewals: int) -> None:
    """One COMFYUI_TIMEOUT of silence, and the question that follows it."""
    await clock.advance(60)
    await eventually(
        lambda: (
            run.task.done() or (run.prompt._follower._renewals == renewals and clock.waiting == 1)
        )
    )


async def test_renewed_ten_times_then_interrupted(
    silent: Run, cluster: Cluster, worker: EmbeddedWorker, clock: ManualClock
) -> None:
    """A prompt that provably runs is forgiven ten times; then it is interrupted and fails."""
    for renewals in range(1, MAX_RENEWALS + 1):
        await asked(silent, clock, renewals)
        assert not silent.task.done()
    await asked(silent, clock, 11)
    with pytest.raises(JobTimeoutError) as caught:
        await silent.task
    assert caught.value.code == "timeout"
    await nothing_left(cluster, worker)
    assert silent.instance.healthy


async def test_a_node_without_progress_may_be_silent_for_twice_the_timeout(
    cluster: Cluster, worker: EmbeddedWorker, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RemoveBackground is: as long as ``/queue`` shows it running it is waited for, and its picture
    is the result."""
    its_end = threading.Event()
    assert worker._life is not None
    executor = worker._life.instance.executor
    monkeypatch.setattr(executor, "wait_until", lambda _deadline: its_end.wait())
    worker.faults.slow_node_s = LONG_S
    run = Run(cluster, graph())
    await eventually(lambda: run.prompt.execution.current_node and clock.waiting == 1)
    for renewals in (1, 2):
        await asked(run, clock, renewals)
        assert not run.task.done()
    its_end.set()
    assert await run.task
    assert run.instance.healthy
    await nothing_left(cluster, worker)


async def test_each_event_renews(silent: Run, worker: EmbeddedWorker, clock: ManualClock) -> None:
    """News of the prompt starts the count anew."""
    for renewals in range(1, 6):
        await asked(silent, clock, renewals)
    worker.faults.slow_node_s = 0.0
    life = worker._life
    assert life is not None
    bar = {"value": 1, "max": 2, "prompt_id": silent.prompt.prompt_id, "node": "1"}
    (socket,) = life.instance.sockets._sockets
    life.instance.sockets.send("progress", bar, socket)
    await eventually(lambda: silent.prompt._follower._renewals == 0)
    await clock.advance(59)
    assert silent.prompt._follower._renewals == 0
    await asked(silent, clock, 1)
    silent.task.cancel()


async def test_strangers_do_not_renew(
    silent: Run, cluster: Cluster, worker: EmbeddedWorker, clock: ManualClock
) -> None:
    """Frames of others' prompts prove that the instance lives, not that ours goes on."""
    for number in range(1, 4):
        await clock.advance(50)
        await somebody(cluster, graph(), f"theirs {number}")
        await eventually(lambda number=number: silent.instance.prompts.external_jobs == number)
        await clock.advance(10)
        await eventually(
            lambda number=number: silent.prompt._follower._renewals == number and clock.waiting == 1
        )
    silent.task.cancel()


async def test_waiting_in_the_queue_is_not_silence(
    cluster: Cluster, worker: EmbeddedWorker, clock: ManualClock
) -> None:
    """A prompt behind others' may wait for hours."""
    await somebody(cluster, graph(seconds=LONG_S))
    run = Run(cluster, graph(colour=2))
    await run.waits_there(worker)
    await eventually(lambda: clock.waiting == 1)
    for _ in range(2 * MAX_RENEWALS):
        await asked(run, clock, 0)
    assert not run.task.done()
    await cluster.clients[run.instance].interrupt("theirs")
    assert await run.task


async def test_hung_instance(
    silent: Run, cluster: Cluster, worker: EmbeddedWorker, clock: ManualClock
) -> None:
    """One that does not answer the question is hung: the job may run elsewhere."""
    worker.faults.hang = ("/",)
    await clock.advance(60)
    await eventually(lambda: worker.faults._waiters)
    await clock.advance(60)
    with pytest.raises(InstanceTimeoutError):
        await silent.task
    assert silent.instance.breaker.consecutive_failures == 1
    assert silent.instance.placements == []
    await eventually(lambda: clock.waiting == 2)
    await clock.advance(5)
    await nothing_left(cluster)


async def test_end_that_was_not_told(
    cluster: Cluster, worker: EmbeddedWorker, clock: ManualClock
) -> None:
    """A prompt that ended without a word is found in the history when it is asked about."""
    run = Run(cluster, graph(seconds=0.1))
    await run.running()
    worker.faults.silent_sockets = True
    await eventually(lambda: worker.executed and clock.waiting == 1)
    await clock.advance(60)
    assert await run.task


async def test_prompt_that_vanished(
    cluster: Cluster, worker: EmbeddedWorker, clock: ManualClock
) -> None:
    """One that somebody else deleted is lost, not waited for."""
    await somebody(cluster, graph(seconds=LONG_S))
    run = Run(cluster, graph(colour=2))
    await run.waits_there(worker)
    await cluster.clients[run.instance].delete(run.prompt.prompt_id)
    await eventually(lambda: clock.waiting == 1)
    await clock.advance(60)
    with pytest.raises(PromptLostError):
        await run.task


async def test_silence_after_the_socket_was_lost(
    silent: Run, cluster: Cluster, worker: EmbeddedWorker, clock: ManualClock
) -> None:
    """The rule holds on the new socket too."""
    questions: list[str] = []
    silent.instance.observers.append(lambda attempt: questions.append(attempt.kind))

    async def questions_asked(count: int) -> None:
        await eventually(
            lambda: silent.task.done() or (questions.count("queue") == count and clock.waiting == 1)
        )

    worker.drop_sockets()
    await questions_asked(2)  # on the new socket, and at the status frame that greets it
    for renewals in range(1, MAX_RENEWALS + 1):
        await clock.advance(60)
        await questions_asked(2 + 2 * renewals)
        assert silent.prompt._follower._renewals == renewals
    await clock.advance(60)
    with pytest.raises(JobTimeoutError):
        await silent.task
    await nothing_left(cluster, worker)


async def test_end_that_comes_while_it_is_asked(
    cluster: Cluster, worker: EmbeddedWorker, clock: ManualClock
) -> None:
    """A picture that arrives during the question is taken, not given up for the history."""
    run = Run(cluster, graph(seconds=0.2, by_frame=True))
    await run.running()
    worker.faults.hang = ("/queue",)
    await clock.advance(60)
    await eventually(lambda: worker.faults._waiters)
    await eventually(lambda: not run.placement.in_queue)  # its end was heard
    worker.faults.clear()
    assert await run.task
    assert worker.submitted == [run.prompt.prompt_id]
