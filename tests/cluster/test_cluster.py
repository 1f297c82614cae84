"""The cluster starts and stops as one, several in one process, and leaves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from cluster_harness import LONG_S, Run, eventually, graph, nothing_left
from manual_clock import ManualClock

from comfy_proxy import Settings
from comfy_proxy.clock import SystemClock, iso, sleep, wait_for_event
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.errors import NoHealthyInstanceError

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Awaitable[Cluster]]


@pytest.fixture
async def no_leak() -> AsyncIterator[None]:
    """Fails the test if a task of its own is still there afterwards."""
    before = asyncio.all_tasks()
    yield
    left = {t for t in asyncio.all_tasks() - before if "cluster" in repr(t.get_coro())}
    assert left == set()


@pytest.mark.usefixtures("no_leak")
async def test_start_and_stop(make_cluster: Callable[..., Cluster], workers: Pair) -> None:
    """After the stop no task, socket or session is left, in whatever state it is stopped."""
    cluster = make_cluster(*workers, classes=("SaveImage",))
    await cluster.start()
    await eventually(lambda: all(map(cluster.capabilities.known, cluster.instances)))
    await Run(cluster, graph()).task
    await cluster.close()
    assert [worker.open_sockets for worker in workers] == [0, 0]
    await cluster.close()  # once more is no error


@pytest.mark.usefixtures("no_leak")
async def test_stop_right_after_the_start(
    make_cluster: Callable[..., Cluster], workers: Pair
) -> None:
    """A stop before the first check was answered waits for nobody."""
    for worker in workers:
        worker.faults.hang = ("/",)
    cluster = make_cluster(*workers, classes=("SaveImage",))
    await cluster.start()
    await eventually(lambda: all(worker.faults._waiters for worker in workers))
    await cluster.close()
    for worker in workers:
        worker.faults.clear()


@pytest.mark.usefixtures("no_leak")
async def test_stop_while_something_is_withdrawn(
    make_cluster: Callable[..., Cluster], worker: EmbeddedWorker, clock: ManualClock
) -> None:
    """Chores in the background end with the cluster at the latest."""
    cluster = make_cluster(worker)
    await cluster.start()
    worker.faults.hang = ("/prompt", "/queue")
    run = Run(cluster, graph())
    await eventually(lambda: run.placement.in_queue and worker.faults._waiters)
    await clock.advance(60)
    await asyncio.wait([run.task])
    assert run.task.exception() is not None
    assert cluster._chores
    await cluster.close()
    assert not cluster._chores
    worker.faults.clear()


async def test_several_in_one_process(
    start_cluster: Start, workers: Pair, clock: ManualClock
) -> None:
    """Two clusters share nothing: one may see an instance down that the other sees up."""
    first = await start_cluster(workers[0])
    second = await start_cluster(workers[0], workers[1], max_connections_per_instance=1)
    await asyncio.gather(Run(first, graph()).task, Run(second, graph(colour=2), at=1).task)
    await clock.advance(3)  # the frames just seen protect it no more
    for _ in range(3):
        first.instances[0].fault("refused")
    assert not first.instances[0].healthy
    assert second.instances[0].healthy
    assert second.instances[0].capacity == 1
    await nothing_left(first, *workers)
    await nothing_left(second, *workers)


async def test_learns_what_instances_can(start_cluster: Start, worker: EmbeddedWorker) -> None:
    """Capabilities are learnt after the first contact, and again after an interruption."""
    cluster = await start_cluster(worker, classes=("SaveImage",))
    instance = cluster.instances[0]
    await eventually(lambda: cluster.capabilities.known(instance))
    instance.socket_lost()
    assert cluster.capabilities.known(instance) is None
    assert await cluster.health_checker.check(instance)
    await eventually(lambda: cluster.capabilities.known(instance))


async def test_learning_may_fail(start_cluster: Start, worker: EmbeddedWorker) -> None:
    """An instance that cannot say what it has is asked again at its next check."""
    worker.faults.answers = {"/object_info": "html"}
    cluster = await start_cluster(worker, classes=("SaveImage",))
    instance = cluster.instances[0]
    await eventually(lambda: instance.breaker.consecutive_failures and not cluster._chores)
    worker.faults.clear()
    assert await cluster.health_checker.check(instance)
    await eventually(lambda: cluster.capabilities.known(instance))


async def test_settings_reach_the_rooms(clock: ManualClock) -> None:
    """Capacity, threshold and ids come from the settings; uptime from the clock."""
    cluster = Cluster(
        Settings(max_connections_per_instance=2, health_failure_threshold=1), clock=clock
    )
    one, two = cluster.instances
    assert (one.id, two.id, one.capacity) == ("1", "2", 2)
    one.fault("refused")
    assert not one.healthy
    await clock.advance(12)
    assert cluster.uptime_s == 12


async def test_system_clock() -> None:
    """The machine's own time: differences, UTC, and timeouts that end."""
    clock = SystemClock()
    assert clock.monotonic() <= clock.monotonic()
    assert iso(clock.now()).endswith("Z")  # type: ignore[union-attr]
    assert iso(None) is None
    event = asyncio.Event()
    assert await wait_for_event(clock, event, 0.0) is False
    event.set()
    assert await wait_for_event(clock, event, LONG_S) is True
    await sleep(clock, 0.0)


# --- who is healthy ------------------------------------------------------------------------


async def test_who_is_healthy_is_asked_nothing(
    connected: Start, workers: Pair, probes: list[Instance]
) -> None:
    """Nor are the others, as long as there is one."""
    cluster = await connected(*workers)
    one, two = cluster.instances
    for _ in range(3):
        two.fault("refused")
    assert await cluster.healthy() == [one]
    assert await cluster.primary() is one
    assert probes == []


async def test_who_is_away_is_found_again_by_whoever_needs_it(
    connected: Start,
    workers: Pair,
    clock: ManualClock,
    probes: list[Instance],
) -> None:
    """One check for all who ask, none again within a second, and the answer is believed."""
    cluster = await connected(*workers)
    one, two = cluster.instances
    await workers[1].kill()
    while two.healthy:
        await cluster.health_checker.check(two)
    await workers[1].restart()
    probes.clear()
    assert await cluster.healthy([two]) == []  # dialled a moment ago
    assert probes == []
    await clock.advance(1)
    found = await asyncio.gather(*(cluster.healthy([two]) for _ in range(5)))
    assert found == [[two]] * 5
    assert probes == [two]
    for _ in range(3):
        one.fault("refused")
    assert await cluster.primary() is two
    with pytest.raises(NoHealthyInstanceError):
        await cluster.primary([one, two])


async def test_one_that_stays_away_is_dialled_once_a_second(
    connected: Start, worker: EmbeddedWorker, clock: ManualClock, probes: list[Instance]
) -> None:
    """However often it is asked for."""
    cluster = await connected(worker)
    await worker.kill()
    while cluster.instances[0].healthy:
        await cluster.health_checker.check(cluster.instances[0])
    probes.clear()
    for _ in range(100):
        assert await cluster.healthy() == []
        await clock.advance(0.05)
    assert len(probes) in (4, 5)
