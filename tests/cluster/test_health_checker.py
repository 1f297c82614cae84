"""Story 1.2: each instance is checked by itself and before each submission."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
from cluster_harness import eventually, graph, left_alone
from loguru import logger
from manual_clock import ManualClock

from comfy_proxy.cluster.circuit_breaker import CircuitState
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.embedded.worker import EmbeddedWorker

Start = Callable[..., Awaitable[Cluster]]


def strikes(cluster: Cluster) -> int:
    return cluster.instances[0].breaker.consecutive_failures


async def failed_check(cluster: Cluster, worker: EmbeddedWorker, clock: ManualClock) -> None:
    """One check that runs into its 300 ms."""
    task = asyncio.create_task(cluster.health_checker.check(cluster.instances[0]))
    await eventually(lambda: worker.faults._waiters or task.done())
    await clock.advance(0.3)
    assert await task is False


async def test_checked_at_the_start(
    start_cluster: Start, workers: tuple[EmbeddedWorker, EmbeddedWorker]
) -> None:
    """Every instance is asked as soon as the proxy starts, which does not wait for it."""
    cluster = await start_cluster(*workers, health_check_interval_s=30.0)
    assert [i.check_ok for i in cluster.instances] == [None, None]
    await eventually(lambda: all(i.check_ok for i in cluster.instances))


async def test_interval_with_jitter(
    start_cluster: Start, worker: EmbeddedWorker, clock: ManualClock, probes: list[Instance]
) -> None:
    """Then it is asked about every 30 s, by itself, not exactly so."""
    cluster = await start_cluster(worker, health_check_interval_s=30.0)
    passed: list[Instance] = []
    cluster.health_checker.on_success.append(passed.append)
    times = []
    for number in range(1, 12):
        await eventually(lambda number=number: len(passed) == number and clock.waiting == 1)
        times.append(clock.monotonic())
        await clock.advance(26.9)
        assert len(probes) == number
        while len(probes) == number and clock.monotonic() - times[-1] < 33.1:
            await clock.advance(0.1)
    gaps = [round(later - earlier, 1) for earlier, later in pairwise(times)]
    assert all(27 <= gap <= 33.1 for gap in gaps)
    assert len(set(gaps)) > 1


async def test_single_flight(
    cluster: Cluster, worker: EmbeddedWorker, probes: list[Instance]
) -> None:
    """Callers at the same time share one probe; a cancelled one does not take it from the rest."""
    worker.faults.hang = ("/system_stats",)
    check = cluster.health_checker.check
    tasks = [asyncio.create_task(check(cluster.instances[0])) for _ in range(4)]
    await eventually(lambda: worker.faults._waiters)
    tasks[0].cancel()
    worker.faults.clear()
    assert await asyncio.gather(*tasks[1:]) == [True] * 3
    assert len(probes) == 1
    assert await check(cluster.instances[0])
    assert len(probes) == 2


async def test_300_ms(cluster: Cluster, worker: EmbeddedWorker, clock: ManualClock) -> None:
    """An instance that does not answer within 300 ms has failed the check; one strike for all."""
    worker.faults.hang = ("/system_stats",)
    check = cluster.health_checker.check
    tasks = [asyncio.create_task(check(cluster.instances[0])) for _ in range(2)]
    await eventually(lambda: worker.faults._waiters)
    await clock.advance(0.29)
    assert not any(task.done() for task in tasks)
    await clock.advance(0.02)
    assert await asyncio.gather(*tasks) == [False, False]
    assert strikes(cluster) == 1


async def test_three_strikes(cluster: Cluster, worker: EmbeddedWorker, clock: ManualClock) -> None:
    """Unhealthy after three consecutive failures, then failing fast without asking."""
    worker.faults.hang = ("/system_stats",)
    for number in range(1, 4):
        assert cluster.instances[0].healthy
        await failed_check(cluster, worker, clock)
        assert strikes(cluster) == number
    assert not cluster.instances[0].healthy
    assert await cluster.health_checker.check(cluster.instances[0]) is False
    assert strikes(cluster) == 3


async def test_only_consecutive_failures(
    cluster: Cluster, worker: EmbeddedWorker, clock: ManualClock
) -> None:
    """A check that passes in between starts the count anew."""
    for _ in range(3):
        worker.faults.hang = ("/system_stats",)
        for _ in range(2):
            await failed_check(cluster, worker, clock)
        worker.faults.clear()
        assert await cluster.health_checker.check(cluster.instances[0])
        assert strikes(cluster) == 0


@pytest.mark.parametrize("answer", ["html", "non_json", "empty", "cut", "500", "503"])
async def test_wrong_answers_fail_the_check(
    cluster: Cluster, worker: EmbeddedWorker, answer: str
) -> None:
    """Something that answers, but not like ComfyUI, is not healthy."""
    worker.faults.answers = {"/system_stats": answer}
    assert await cluster.health_checker.check(cluster.instances[0]) is False
    assert strikes(cluster) == 1


@pytest.mark.logs_faults
async def test_one_that_breaks_on_hearing_of_it_spoils_neither_the_check_nor_what_others_hear(
    cluster: Cluster,
) -> None:
    def breaks(instance: Instance) -> None:
        raise ValueError("a fault of ours")

    heard: list[Instance] = []
    cluster.health_checker.on_success[:0] = [breaks]
    cluster.health_checker.on_success.append(heard.append)
    assert await cluster.health_checker.check(cluster.instances[0])
    assert heard == [cluster.instances[0]]


async def test_recovers_by_itself(
    start_cluster: Start, worker: EmbeddedWorker, clock: ManualClock
) -> None:
    """Killed, restarted and healthy again at the next check, with nobody asking for it."""
    cluster = await start_cluster(worker, health_check_interval_s=30.0)
    instance = cluster.instances[0]
    await eventually(lambda: instance.check_ok and clock.waiting == 1)
    await worker.kill()
    await clock.advance(33)
    await left_alone(cluster, clock)
    assert not instance.healthy
    assert instance.last_success < instance.last_check
    await worker.restart()
    await clock.advance(33)
    await eventually(lambda: instance.healthy)


async def test_failed_trial(cluster: Cluster, worker: EmbeddedWorker, clock: ManualClock) -> None:
    """While it stays dead each trial ends in an open circuit again."""
    instance = cluster.instances[0]
    await worker.kill()
    for _ in range(3):
        await cluster.health_checker.check(instance)
    for _ in range(3):
        assert instance.breaker.state is CircuitState.OPEN
        await clock.advance(1)
        assert await cluster.health_checker.check(instance) is False
    assert instance.breaker.state is CircuitState.OPEN


async def test_cancelled_trial(
    cluster: Cluster, worker: EmbeddedWorker, clock: ManualClock
) -> None:
    """A trial that is cut off by the proxy's end leaves the circuit open, not half-open."""
    instance = cluster.instances[0]
    await worker.kill()
    for _ in range(3):
        await cluster.health_checker.check(instance)
    await worker.restart()
    worker.faults.hang = ("/system_stats",)
    await clock.advance(1)
    trial = asyncio.create_task(cluster.health_checker.check(instance))
    await eventually(lambda: worker.faults._waiters)
    assert instance.breaker.state is CircuitState.HALF_OPEN
    await cluster.health_checker.close()
    assert instance.breaker.state is CircuitState.OPEN
    await asyncio.wait([trial])
    assert trial.cancelled()


@pytest.mark.parametrize(("later_s", "spoke"), [(0.31, False), (0.01, True)])
async def test_who_alone_can_answer_is_checked_at_once(
    cluster: Cluster,
    worker: EmbeddedWorker,
    clock: ManualClock,
    probes: list[Instance],
    later_s: float,
    spoke: bool,
) -> None:
    """Also while its circuit cools down: once in 0.3 s, and at once when it has spoken since."""
    instance = cluster.instances[0]
    worker.faults.hang = ("/system_stats",)
    for _ in range(3):
        await failed_check(cluster, worker, clock)
    worker.faults.clear()
    assert not await cluster.health_checker.answers(instance)
    assert len(probes) == 3
    await clock.advance(later_s)
    if spoke:
        instance.frame_seen()
    assert await cluster.health_checker.answers(instance)
    assert instance.healthy
    assert await cluster.health_checker.answers(instance)
    assert len(probes) == 4


async def test_demand(
    start_cluster: Start, worker: EmbeddedWorker, clock: ManualClock, probes: list[Instance]
) -> None:
    """While somebody waits, a failed instance is really tried about every second."""
    await worker.kill()
    cluster = await start_cluster(worker, health_check_interval_s=60.0)
    await left_alone(cluster, clock)
    with cluster.health_checker.demand(), cluster.health_checker.demand():
        for _ in range(10):
            before = strikes(cluster)
            await clock.advance(1.1)
            await eventually(lambda before=before: strikes(cluster) > before and clock.waiting == 1)
    demanded = len(probes)
    await clock.advance(20)
    assert len(probes) <= demanded + 1


async def test_a_demand_after_a_while_is_heard_at_once(
    start_cluster: Start, worker: EmbeddedWorker, clock: ManualClock, probes: list[Instance]
) -> None:
    """Whoever begins to wait need not wait a second more for one that has returned meanwhile."""
    await worker.kill()
    cluster = await start_cluster(worker, health_check_interval_s=30.0)
    await left_alone(cluster, clock)
    await clock.advance(5)
    before = len(probes)
    await worker.restart()
    with cluster.health_checker.demand():
        await eventually(lambda: cluster.instances[0].check_ok)
    assert len(probes) == before + 1


async def test_one_that_fails_is_checked_again_though_nobody_waits(
    start_cluster: Start, worker: EmbeddedWorker, clock: ManualClock, probes: list[Instance]
) -> None:
    """Another instance may take all prompts, so that nobody waits: it is of use a second after it
    answers, not at the next interval; also one that failed its first check, at the start."""
    worker.faults.answers = {"/system_stats": "500"}
    cluster = await start_cluster(worker, health_check_interval_s=30.0)
    instance, checker = cluster.instances[0], cluster.health_checker
    for number in range(1, 5):
        await eventually(lambda number=number: len(probes) == number and not checker._checks)
        await eventually(lambda: clock.waiting == 2)
        assert instance.check_ok is False
        if number == 4:
            assert not instance.healthy
            worker.faults.answers = {}
        await clock.advance(1.0)
    await eventually(lambda: instance.healthy and instance.check_ok)


async def test_demand_leaves_healthy_ones_alone(
    start_cluster: Start, worker: EmbeddedWorker, clock: ManualClock, probes: list[Instance]
) -> None:
    """Somebody's wait is no reason to ask an instance that is well."""
    cluster = await start_cluster(worker, health_check_interval_s=30.0)
    await eventually(lambda: cluster.instances[0].check_ok and clock.waiting == 1)
    with cluster.health_checker.demand():
        await clock.advance(26)
    assert len(probes) == 1


async def test_busy_instance(cluster: Cluster, worker: EmbeddedWorker, clock: ManualClock) -> None:
    """A check that fails right after a frame of a job is no strike (trap 8)."""
    pool = cluster.connections.pool(cluster.instances[0])
    async with pool.lease():
        await eventually(lambda: cluster.instances[0].signs.alive_just_now)
        worker.faults.hang = ("/system_stats",)
        await failed_check(cluster, worker, clock)
        assert strikes(cluster) == 0
        await clock.advance(2)
        await failed_check(cluster, worker, clock)
        assert strikes(cluster) == 1


async def test_learns_what_others_queued(start_cluster: Start, worker: EmbeddedWorker) -> None:
    """Prompts that were there before the proxy count as load after the first check."""
    other = await start_cluster("127.0.0.1:9")
    client = ComfyUIClient(other.instances[0], other.connections, clock=other.clock, timeout_s=5)
    client.instance.url = other.instances[0].url.with_port(worker.port)
    for number in range(3):
        await client.submit(graph(seconds=600).prompt, prompt_id=f"{number}", client_id="c")
    cluster = await start_cluster(worker)
    await eventually(lambda: cluster.instances[0].prompts.external_jobs == 3)


async def test_hanging_queue_does_not_hold_up_the_checks(
    start_cluster: Start, worker: EmbeddedWorker, clock: ManualClock, probes: list[Instance]
) -> None:
    """An instance whose /queue hangs is still checked in time, and that is no strike."""
    worker.faults.hang = ("/queue",)
    cluster = await start_cluster(worker, health_check_interval_s=30.0)
    await eventually(lambda: worker.faults._waiters)
    await clock.advance(5)
    await eventually(lambda: clock.waiting == 1)
    await clock.advance(33)
    await eventually(lambda: len(probes) == 2)
    assert strikes(cluster) == 0


@pytest.mark.logs_faults
async def test_a_broken_check_is_not_the_last_one(
    start_cluster: Start, worker: EmbeddedWorker, clock: ManualClock
) -> None:
    """An unforeseen error in a check is logged, and the next check comes all the same."""
    lines: list[str] = []
    logger.add(lines.append, format="{message}", level="ERROR")
    cluster = await start_cluster(worker, health_check_interval_s=30.0)
    heard: list[Instance] = []

    def broken(instance: Instance) -> None:
        heard.append(instance)
        raise RuntimeError("unforeseen")

    cluster.health_checker.on_success.append(broken)
    await eventually(lambda: len(heard) == 1 and clock.waiting == 1)
    await clock.advance(33)
    await eventually(lambda: len(heard) == 2)
    assert "unforeseen" in lines[0]
