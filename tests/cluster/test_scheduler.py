"""The only door to an instance: who gets a place, who waits, who is moved."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable

import pytest
from cluster_harness import eventually, left_alone, make_instance
from manual_clock import ManualClock, settle

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.planning.work import work_of
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.errors import InstanceUnreachableError, NoHealthyInstanceError

Start = Callable[..., Awaitable[Cluster]]


class Checks:
    """Stands in for ``GET /system_stats``: who is dead, who is slow, who was asked."""

    def __init__(self) -> None:
        self.dead: set[Instance] = set()
        self.asked: list[Instance] = []
        self.answer: dict[Instance, asyncio.Event] = defaultdict(_answered)

    async def check(self, client: ComfyUIClient, timeout_s: float) -> None:
        self.asked.append(client.instance)
        await self.answer[client.instance].wait()
        if client.instance in self.dead:
            raise InstanceUnreachableError("refused")


def _answered() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Checks:
    stand_in = Checks()

    async def check(self: ComfyUIClient, timeout_s: float) -> None:
        await stand_in.check(self, timeout_s)

    monkeypatch.setattr(ComfyUIClient, "check", check)
    return stand_in


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster], checks: Checks) -> Cluster:
    return make_cluster("gpu1:1", "gpu2:1", pending_timeout_s=100.0)


async def place(cluster: Cluster, **options: object) -> Placement:
    since = cluster.clock.monotonic()
    return await cluster.scheduler.place(since=since, **options)  # type: ignore[arg-type]


async def queued(cluster: Cluster, **options: object) -> Placement:
    placement = await place(cluster, **options)
    placement.in_queue = True
    return placement


async def test_least_loaded(cluster: Cluster) -> None:
    """Places go to the least loaded instance, others' prompts counted."""
    one, two = cluster.instances
    one.prompts.observed(1)
    assert [(await place(cluster)).instance for _ in range(3)] == [two, one, two]


async def test_checked_before_each_submission(cluster: Cluster, checks: Checks) -> None:
    """Each place was checked right before it was given."""
    placements = [await place(cluster) for _ in range(4)]
    assert checks.asked == [placement.instance for placement in placements]


async def test_passed_over_for_this_submission_alone(cluster: Cluster, checks: Checks) -> None:
    """One that fails its check is passed over now, gives its place back and is asked again."""
    one, two = cluster.instances
    checks.dead = {one}
    assert (await place(cluster)).instance is two
    assert (one.active_jobs, one.healthy) == (0, True)
    checks.dead = set()
    assert (await place(cluster)).instance is one


async def test_one_that_fails_its_check_is_not_asked_at_once_again(
    cluster: Cluster, checks: Checks
) -> None:
    """Also if the prompt would be finished first there: the next one takes it."""
    one, two = cluster.instances
    work = work_of({"1": {"class_type": "Loader", "inputs": {"ckpt_name": "a.ckpt"}}}, None)
    for instance, seconds in ((one, 1.0), (two, 60.0)):
        cluster.planner.costs.learn(instance, work, seconds, loaded=(), now=0)
    checks.dead = {one}
    assert (await place(cluster, work_at=lambda instance: work)).instance is two
    assert checks.asked == [one, two]


async def test_never_more_than_connections(cluster: Cluster) -> None:
    """A full instance gets nothing; the next one waits until a place is given back."""
    placements = [await place(cluster) for _ in range(6)]
    seventh = asyncio.create_task(place(cluster))
    await settle()
    assert not seventh.done()
    assert "waiting=1" in repr(cluster.scheduler)
    placements[3].release()
    assert (await seventh).instance is placements[3].instance
    assert [i.active_jobs for i in cluster.instances] == [3, 3]


async def test_first_come_first_served(cluster: Cluster) -> None:
    """Who waits longest gets the next place, and a cancelled waiter takes none."""
    placements = [await place(cluster) for _ in range(6)]
    order: list[int] = []

    async def job(number: int) -> None:
        await place(cluster)
        order.append(number)

    tasks = []
    for number in range(4):
        tasks.append(asyncio.create_task(job(number)))
        await settle()
    tasks[1].cancel()
    for placement in placements[:3]:
        placement.release()
        await settle()
    assert order == [0, 2, 3]
    assert sum(i.active_jobs for i in cluster.instances) == 6


async def test_cancelled_in_the_check(cluster: Cluster, checks: Checks) -> None:
    """A job cancelled while its instance is checked gives its place back."""
    for instance in cluster.instances:
        checks.answer[instance].clear()
    task = asyncio.create_task(place(cluster))
    await eventually(lambda: checks.asked)
    assert sum(i.active_jobs for i in cluster.instances) == 1
    task.cancel()
    await asyncio.wait([task])
    assert sum(i.active_jobs for i in cluster.instances) == 0


async def test_avoided_only_if_there_is_a_choice(cluster: Cluster, checks: Checks) -> None:
    """An instance that failed under the job is used again only when nobody else can."""
    one, two = cluster.instances
    two.prompts.observed(2)
    assert (await place(cluster, avoid={one})).instance is two
    checks.dead = {two}
    assert (await place(cluster, avoid={one})).instance is one


async def test_avoided_although_the_other_is_full(cluster: Cluster) -> None:
    """For another one that is merely full the job waits."""
    one, two = cluster.instances
    placements = [Placement(two, on_release=cluster.scheduler._released) for _ in range(3)]
    task = asyncio.create_task(place(cluster, avoid={one}))
    await settle()
    assert not task.done()
    placements[0].release()
    assert (await task).instance is two


async def test_accepts(cluster: Cluster) -> None:
    """Only instances that can run the prompt are considered."""
    two = cluster.instances[1]
    chosen = [(await place(cluster, accepts=lambda i: i is two)).instance for _ in range(3)]
    assert chosen == [two] * 3


async def test_busy_instance_is_used_when_all_fail(cluster: Cluster, checks: Checks) -> None:
    """If all fail their check, one that sent frames just now is busy, not dead (trap 8)."""
    two = cluster.instances[1]
    checks.dead = set(cluster.instances)
    two.frame_seen()
    assert (await place(cluster)).instance is two
    assert two.active_jobs == 1


async def test_busy_instance_is_not_used_while_another_answers(
    cluster: Cluster, checks: Checks
) -> None:
    """One that answers its check comes before one that is too busy to."""
    one, two = cluster.instances
    checks.dead = {one}
    one.frame_seen()
    assert (await place(cluster)).instance is two


async def test_pending_timeout_when_nobody_answers(
    cluster: Cluster, checks: Checks, clock: ManualClock
) -> None:
    """With nobody usable for PENDING_TIMEOUT the job fails with ``no_instance``."""
    checks.dead = set(cluster.instances)
    task = asyncio.create_task(place(cluster))
    await clock.advance(99)
    assert not task.done()
    await clock.advance(2)
    with pytest.raises(NoHealthyInstanceError) as caught:
        await task
    assert caught.value.code == "no_instance"
    assert sum(i.active_jobs for i in cluster.instances) == 0


async def test_full_is_not_unusable(cluster: Cluster, checks: Checks, clock: ManualClock) -> None:
    """Waiting for a place at an instance that works does not use up the patience."""
    placements = [await place(cluster) for _ in range(6)]
    task = asyncio.create_task(place(cluster))
    await clock.advance(1000)
    assert not task.done()
    checks.dead = set(cluster.instances)
    for placement in placements:
        placement.release()
    await clock.advance(99)
    assert not task.done()
    await clock.advance(2)
    with pytest.raises(NoHealthyInstanceError):
        await task


async def test_starts_as_soon_as_one_answers(
    start_cluster: Start, worker: EmbeddedWorker, clock: ManualClock
) -> None:
    """A job that waits for a dead instance gets its place seconds after that one is back."""
    await worker.kill()
    cluster = await start_cluster(worker, health_check_interval_s=30.0)
    instance = cluster.instances[0]
    await left_alone(cluster, clock)
    task = asyncio.create_task(place(cluster))
    for _ in range(5):
        await clock.advance(1.1)
        await eventually(lambda: clock.waiting == 2)
    assert not instance.healthy
    await worker.restart()
    began = clock.monotonic()
    while not task.done() and clock.monotonic() < began + 5:
        await clock.advance(0.1)
        await eventually(lambda: task.done() or clock.waiting == 2)
    assert (await task).instance is instance
    assert clock.monotonic() - began < 3


async def test_a_client_s_prompt_enters_at_once_and_stays(cluster: Cluster) -> None:
    """Also at a full instance; it is offered no other place, and its end wakes who waits."""
    one, two = cluster.instances
    entered = [cluster.scheduler.enter(one) for _ in range(4)]
    for placement in entered:
        placement.in_queue = True
    cluster.scheduler.rebalance()
    assert (one.active_jobs, two.active_jobs) == (4, 0)
    jobs = [await place(cluster) for _ in range(3)]
    waiting = asyncio.create_task(place(cluster))
    await settle()
    for placement in entered:
        placement.release()
    assert (await waiting).instance is one
    assert {job.instance for job in jobs} == {two}


@pytest.mark.logs_faults
async def test_a_place_is_given_back_whoever_breaks_on_hearing_of_it(
    make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that is done stays done, and the next one gets its place."""

    def breaks() -> None:
        raise ValueError("a fault of ours")

    cluster = make_cluster("gpu1:1")
    heard: list[str] = []
    scheduler = cluster.scheduler
    scheduler.on_change += [breaks, lambda: heard.append("changed")]
    placement = scheduler._placement(cluster.instances[0], lambda instance: True)
    monkeypatch.setattr(scheduler.door, "open", breaks)
    monkeypatch.setattr(scheduler.rebalancing, "ask", lambda: heard.append("load"))
    placement.release()
    assert cluster.instances[0].active_jobs == 0
    assert heard == ["changed", "changed", "load"]


@pytest.mark.logs_faults
def test_what_breaks_when_a_place_is_given_back_does_not_reach_who_gives_it_back(
    clock: ManualClock,
) -> None:
    def breaks(placement: Placement) -> None:
        raise ValueError("a fault of ours")

    placement = Placement(make_instance(clock), on_release=breaks, on_sent=breaks)
    placement.sent("prompt")
    placement.release()
    assert placement.instance.active_jobs == 0
