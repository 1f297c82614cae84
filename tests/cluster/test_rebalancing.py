"""Trap 24: a prompt that waits is offered the place of an instance that ran low."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from functools import partial

import pytest
from cluster_harness import make_instance
from manual_clock import ManualClock, settle

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.soon import PAUSE_TIMES, Pace


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    return make_cluster("gpu1:1", "gpu2:1")


@pytest.fixture
def queue(cluster: Cluster) -> list[Placement]:
    """Three prompts at the first instance, the first of them running; nothing at the second."""
    placements = [queued(cluster, cluster.instances[0]) for _ in range(3)]
    placements[0].running = True
    return placements


def queued(
    cluster: Cluster, instance: Instance, accepts: Callable[[Instance], bool] = lambda i: True
) -> Placement:
    placement = cluster.scheduler._placement(instance, accepts)
    placement.in_queue = True
    return placement


def offers(placements: list[Placement]) -> list[bool]:
    return [placement.move_to is not None for placement in placements]


async def test_the_last_one_is_offered(cluster: Cluster, queue: list[Placement]) -> None:
    """The prompt that would wait longest is woken and offered a place at the idle instance."""
    woken: list[int] = []

    async def wake(number: int) -> None:
        woken.append(number)

    for number, placement in enumerate(queue):
        placement.move = partial(wake, number)
    cluster.scheduler.rebalance()
    await settle()
    assert offers(queue) == [False, False, True]
    assert woken == [2]
    assert queue[2].move_to is not None
    assert queue[2].move_to.instance is cluster.instances[1]
    assert cluster.instances[1].active_jobs == 1


def test_one_offer_brings_the_balance(cluster: Cluster, queue: list[Placement]) -> None:
    """The offered place counts already: two against one is balanced enough."""
    cluster.scheduler.rebalance()
    cluster.scheduler.rebalance()
    assert offers(queue) == [False, False, True]


async def test_a_release_rebalances(cluster: Cluster, queue: list[Placement]) -> None:
    """An instance that runs empty asks for work by itself."""
    ending, _ = (queued(cluster, cluster.instances[1]) for _ in range(2))
    cluster.scheduler.rebalance()
    assert offers(queue) == [False, False, False]
    ending.release()
    await settle()
    assert offers(queue) == [False, False, True]


async def test_what_changes_at_the_same_time_is_one_reason_and_what_comes_later_another(
    cluster: Cluster, queue: list[Placement], monkeypatch: pytest.MonkeyPatch, clock: ManualClock
) -> None:
    """A burst of loads that change is looked at once; and none that came after that is missed."""
    looks: list[float] = []
    look = cluster.scheduler.rebalance
    spent = itertools.count()
    pace = Pace(clock, lambda: next(spent) / 100)  # each look takes 10 ms
    monkeypatch.setattr(cluster.scheduler.rebalancing, "_pace", pace)

    def counted() -> None:
        looks.append(clock.monotonic())
        look()
        if len(looks) == 2:
            cluster.scheduler.rebalancing.ask()  # while it is looked at

    monkeypatch.setattr(cluster.scheduler.rebalancing, "_work", counted)
    for _ in range(100):
        cluster.scheduler.rebalancing.ask()
    await settle()
    assert looks == [clock.monotonic()]
    assert offers(queue) == [False, False, True]
    queue[2].decline()
    for _ in range(100):
        cluster.scheduler.rebalancing.ask()
        await settle(1)
    assert len(looks) == 1
    begun, pause_s = clock.monotonic(), PAUSE_TIMES / 100
    await clock.advance(10 * pause_s)
    assert looks[1:] == pytest.approx([begun + pause_s, begun + 2 * pause_s])
    assert offers(queue) == [False, True, False]


async def test_short_work_after_long_work_shortens_no_pause(clock: ManualClock) -> None:
    """The pause of the long one counts on."""
    spent = iter([0.0, 0.1, 0.1, 0.105])
    pace = Pace(clock, lambda: next(spent))
    begun = clock.monotonic()
    for _ in range(2):
        with pace.measured():
            pass
    waiting = asyncio.create_task(pace.wait())
    await clock.advance(PAUSE_TIMES * 0.1 - 0.01)
    assert not waiting.done()
    await clock.advance(0.01)
    assert waiting.done()
    assert clock.monotonic() - begun == pytest.approx(PAUSE_TIMES * 0.1)


async def test_difference_of_one_is_left(cluster: Cluster, queue: list[Placement]) -> None:
    """Moving would only turn the difference round."""
    queued(cluster, cluster.instances[1])
    queue[2].release()
    await settle()
    assert offers(queue) == [False, False, False]


async def test_not_while_jobs_wait_here(cluster: Cluster, queue: list[Placement]) -> None:
    """A job that has no place yet, MAX_CONCURRENT_JOBS being at work, takes the free one next;
    nothing needs to be moved."""
    cluster.scheduler.door.room = lambda: 0
    waiter = asyncio.create_task(cluster.scheduler.place(since=cluster.clock.monotonic()))
    await settle()
    cluster.scheduler.rebalance()
    assert offers(queue) == [False, False, False]
    waiter.cancel()
    await asyncio.wait([waiter])
    cluster.scheduler.rebalance()
    assert offers(queue) == [False, False, True]


async def test_not_while_somebody_stands_at_the_door(
    cluster: Cluster, queue: list[Placement]
) -> None:
    """The same for one that waits in the scheduler."""
    cluster.scheduler.door.room = lambda: 0
    waiter = asyncio.create_task(cluster.scheduler.place(since=cluster.clock.monotonic()))
    await settle()
    cluster.scheduler.rebalance()
    assert offers(queue) == [False, False, False]
    waiter.cancel()
    await asyncio.wait([waiter])
    cluster.scheduler.rebalance()
    assert offers(queue) == [False, False, True]


@pytest.mark.parametrize("failures", [1, 3])
def test_not_to_an_instance_that_fails(
    cluster: Cluster, queue: list[Placement], failures: int
) -> None:
    """A place at an instance that is down, or seems to be, is no offer."""
    for _ in range(failures):
        cluster.instances[1].check_failed("refused")
    cluster.scheduler.rebalance()
    assert offers(queue) == [False, False, False]


def test_not_to_an_instance_that_cannot_run_it(cluster: Cluster) -> None:
    """A prompt stays where its nodes are; another one that can go is offered the place."""
    one = cluster.instances[0]
    placements = [queued(cluster, one, accepts=lambda i: i is one) for _ in range(3)]
    cluster.scheduler.rebalance()
    assert offers(placements) == [False, False, False]
    placements.insert(0, queued(cluster, one))
    cluster.scheduler.rebalance()
    assert offers(placements) == [True, False, False, False]


async def test_not_back_to_where_the_job_failed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instance that a job avoids is not offered to it either."""

    async def answers(instance: Instance) -> bool:
        return True

    monkeypatch.setattr(cluster.health_checker, "check", answers)
    one, two = cluster.instances
    placements = [await cluster.scheduler.place(since=0, avoid={two}) for _ in range(3)]
    for placement in placements:
        placement.in_queue = True
    cluster.scheduler.rebalance()
    assert one.active_jobs == 3
    assert offers(placements) == [False, False, False]


def test_only_what_waits_there(cluster: Cluster, queue: list[Placement]) -> None:
    """Prompts that run or were not sent yet are left alone."""
    queue[1].running = True
    queue[2].in_queue = False
    cluster.scheduler.rebalance()
    assert offers(queue) == [False, False, False]


def test_others_load_counts(cluster: Cluster, queue: list[Placement]) -> None:
    """Nothing is moved behind the prompts of others."""
    cluster.instances[1].prompts.observed(2)
    cluster.scheduler.rebalance()
    assert offers(queue) == [False, False, False]


async def test_declined_is_not_repeated(
    cluster: Cluster, queue: list[Placement], clock: ManualClock
) -> None:
    """A prompt that could not be withdrawn stays; its offered place goes to the next one."""
    cluster.scheduler.rebalance()
    queue[2].decline()
    await settle()
    assert offers(queue) == [False, True, False]
    queue[1].decline()
    await settle()
    assert offers(queue) == [False, False, False]
    assert cluster.instances[1].active_jobs == 0


async def test_it_is_told_that_a_job_has_left(cluster: Cluster, queue: list[Placement]) -> None:
    """Once, and when it does not count any more; of a client's own prompt the ledger tells."""
    one, told = cluster.instances[0], list[int]()
    cluster.scheduler.on_job_left.append(lambda: told.append(one.active_jobs))
    cluster.scheduler.enter(one).release()
    assert told == []
    queue[2].release()
    queue[2].release()
    assert told == [2]


def test_released_once(clock: ManualClock) -> None:
    """Giving a place back twice tells it once."""
    told: list[Placement] = []
    placement = Placement(make_instance(clock), on_release=told.append)
    assert repr(placement) == "<Placement at gpu1:8188 preparing>"
    placement.release()
    placement.release()
    assert told == [placement]
    assert placement.instance.active_jobs == 0


async def test_nothing_is_looked_at_any_more_once_the_cluster_was_closed(
    cluster: Cluster, queue: list[Placement]
) -> None:
    """What its jobs give back then is no reason either."""
    cluster.scheduler.rebalancing.ask()
    await cluster.scheduler.close()
    cluster.scheduler.rebalancing.ask()
    await settle()
    assert offers(queue) == [False, False, False]
