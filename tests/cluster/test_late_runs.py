"""What waits behind something late goes elsewhere when that pays, and not at the next event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from manual_clock import ManualClock, settle
from plan_harness import LOAD_S, RUN_S, has_loaded, teach, work

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.late_runs import MAX_TRIED, LateRuns, Movable
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.planning.figures import TIE_S
from comfy_proxy.cluster.planning.work import Work

A, B = work("a"), work("b")
MOMENT_S = RUN_S + LOAD_S + TIE_S
"""Seconds after the beginning of a run of A at which one more A that waits behind it is finished
earlier where it needs a load: what runs is late by a load and a tie then."""
HOUR_S = 3600.0


class Jobs:
    """Jobs' prompts at two instances (and more); A is loaded at the first one, B at the others."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.one, self.two, *_ = cluster.instances
        self.looks = 0
        teach(cluster.planner, A, B)
        has_loaded(cluster.planner, self.one, "a")
        for other in cluster.instances[1:]:
            has_loaded(cluster.planner, other, "b")
        look = cluster.scheduler.rebalance

        def counted() -> None:
            self.looks += 1
            look()

        cluster.scheduler.rebalancing._work = counted

    def sent(
        self, instance: Instance, accepts: Any = lambda instance: True, what: Work = A
    ) -> Placement:
        """One of A, unless told, waits in the queue there."""
        placement = self.cluster.scheduler._placement(instance, accepts, work=what)
        placement.sent(placement)
        return placement

    def sent_by_client(self, instance: Instance) -> str:
        """A prompt that a client posted; its place was given back once it was accepted."""
        planner, key = self.cluster.planner, f"client's {instance.load}"
        planner.join(planner.slot(key, A, instance), instance)
        instance.prompts.external_jobs += 1
        self.cluster.scheduler.rebalancing.ask()
        return key

    def begins(self, placement: Placement) -> None:
        placement.running = True
        self.begins_of(placement.instance, placement)

    def begins_of(self, instance: Instance, key: object) -> None:
        self.cluster.planner.lines[instance].begin(key, self.cluster.clock.monotonic())


@pytest.fixture
def jobs(make_cluster: Callable[..., Cluster]) -> Jobs:
    return Jobs(make_cluster("gpu1:1", "gpu2:1"))


def target(placement: Placement) -> Instance | None:
    """Where it is offered a place."""
    return None if placement.move_to is None else placement.move_to.instance


async def test_a_job_behind_a_late_one_is_moved_at_the_moment_when_it_gains(
    jobs: Jobs, clock: ManualClock
) -> None:
    """Before the late one has ended, and with no health check between: there is none here."""
    first, behind = jobs.sent(jobs.one), jobs.sent(jobs.one)
    jobs.begins(first)
    await clock.advance(MOMENT_S - 0.01)
    assert target(behind) is None
    await clock.advance(0.02)
    assert target(behind) is jobs.two
    assert first.running


async def test_it_is_looked_at_when_the_one_ahead_should_have_ended_and_when_it_gains(
    jobs: Jobs, clock: ManualClock
) -> None:
    """Nothing tells the scheduler of the beginning of a run."""
    first, behind = jobs.sent(jobs.one), jobs.sent(jobs.one)
    await settle()
    jobs.begins(first)
    jobs.looks = 0
    await clock.advance(MOMENT_S + 0.01)
    assert (target(behind), jobs.looks) == (jobs.two, 2)


async def test_of_several_that_wait_the_last_one_is_moved_first(
    jobs: Jobs, clock: ManualClock
) -> None:
    """It would be finished a run later than the one before it, so it gains a run earlier."""
    first, second, third = (jobs.sent(jobs.one) for _ in range(3))
    jobs.begins(first)
    await clock.advance(MOMENT_S - RUN_S + 0.01)
    assert (target(second), target(third)) == (None, jobs.two)


async def test_nothing_moves_where_it_cannot_run(jobs: Jobs, clock: ManualClock) -> None:
    """And no timer is set for that."""
    first = jobs.sent(jobs.one)
    behind = jobs.sent(jobs.one, accepts=lambda instance: instance is jobs.one)
    jobs.begins(first)
    jobs.cluster.scheduler.rebalancing.ask()
    await clock.advance(HOUR_S)
    assert target(behind) is None
    assert clock.waiting == 0


async def test_nothing_moves_to_one_that_fails_its_checks(jobs: Jobs, clock: ManualClock) -> None:
    """It is no better than the late one."""
    jobs.two.check_failed("refused")
    first, behind = jobs.sent(jobs.one), jobs.sent(jobs.one)
    jobs.begins(first)
    await clock.advance(HOUR_S)
    assert target(behind) is None


async def test_nothing_moves_when_the_one_ahead_ends_in_time(
    jobs: Jobs, clock: ManualClock
) -> None:
    """The next one runs where it waited."""
    first, behind = jobs.sent(jobs.one), jobs.sent(jobs.one)
    jobs.begins(first)
    await clock.advance(RUN_S)
    first.release()
    await settle()
    jobs.begins(behind)
    await clock.advance(HOUR_S)
    assert target(behind) is None
    assert jobs.two.active_jobs == 0


async def test_the_timer_ends_with_the_cluster(jobs: Jobs, clock: ManualClock) -> None:
    first = jobs.sent(jobs.one)
    jobs.sent(jobs.one)
    jobs.begins(first)
    await settle()
    assert clock.waiting == 1
    await jobs.cluster.close()
    assert clock.waiting == 0


async def test_a_new_timer_replaces_the_old_one(jobs: Jobs, clock: ManualClock) -> None:
    """However often work is looked at."""
    first = jobs.sent(jobs.one)
    jobs.sent(jobs.one)
    jobs.begins(first)
    for _ in range(20):
        jobs.cluster.scheduler.rebalancing.ask()
        await settle()
    assert clock.waiting == 1


async def test_what_declines_is_not_looked_at_again_and_again(
    jobs: Jobs, clock: ManualClock
) -> None:
    """It gains all the time, and stays."""
    first, behind = jobs.sent(jobs.one), jobs.sent(jobs.one)
    jobs.begins(first)
    await clock.advance(MOMENT_S + 0.01)
    behind.decline()
    await settle()
    jobs.looks = 0
    await clock.advance(HOUR_S)
    assert (target(behind), jobs.looks, clock.waiting) == (None, 0, 0)


async def test_an_idle_instance_that_would_be_taken_and_takes_nothing_is_no_busy_loop(
    jobs: Jobs, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reason is: once the moment has come no other is foreseen."""
    monkeypatch.setattr(jobs.cluster.scheduler, "_offer", lambda *move: None)
    first = jobs.sent(jobs.one)
    jobs.sent(jobs.one)
    jobs.begins(first)
    await clock.advance(MOMENT_S + 0.01)
    jobs.looks = 0
    await clock.advance(HOUR_S)
    assert (jobs.looks, clock.waiting) == (0, 0)


async def test_two_that_are_late_do_not_wait_for_each_other(jobs: Jobs, clock: ManualClock) -> None:
    """What runs late at the other one is believed to run on for as long: waiting makes that no
    better, so there is nothing to foresee. When it ends the job is moved."""
    first, _, behind = (jobs.sent(jobs.one) for _ in range(3))
    other = jobs.sent(jobs.two, what=B)
    jobs.begins(first)
    jobs.begins(other)
    await clock.advance(RUN_S + TIE_S)
    jobs.cluster.scheduler.rebalancing.ask()
    await settle()
    jobs.looks = 0
    await clock.advance(HOUR_S)
    assert target(behind) is None
    assert (jobs.looks, clock.waiting) == (0, 0)
    other.release()
    await settle()
    assert target(behind) is jobs.two


async def test_a_job_behind_a_late_prompt_of_a_client_is_moved(
    jobs: Jobs, clock: ManualClock
) -> None:
    """The client's own prompt stays: it runs."""
    key = jobs.sent_by_client(jobs.one)
    behind = jobs.sent(jobs.one)
    jobs.begins_of(jobs.one, key)
    await clock.advance(MOMENT_S - 0.01)
    assert target(behind) is None
    await clock.advance(0.02)
    assert target(behind) is jobs.two


async def test_a_job_behind_a_waiting_prompt_of_a_client_and_a_late_job_is_moved(
    jobs: Jobs, clock: ManualClock
) -> None:
    """A run earlier: the client's prompt is ahead of it too."""
    first = jobs.sent(jobs.one)
    jobs.sent_by_client(jobs.one)
    behind = jobs.sent(jobs.one)
    jobs.begins(first)
    await clock.advance(MOMENT_S - RUN_S - 0.01)
    assert target(behind) is None
    await clock.advance(0.02)
    assert target(behind) is jobs.two


async def test_what_others_put_there_counts(jobs: Jobs, clock: ManualClock) -> None:
    """Of a stranger's prompt nothing is known but that it waits there: an average run."""
    first, behind = jobs.sent(jobs.one), jobs.sent(jobs.one)
    jobs.one.prompts.external_jobs += 1
    jobs.begins(first)
    mean_s = jobs.cluster.planner.costs.mean_run_s(jobs.one)
    assert mean_s
    await clock.advance(MOMENT_S - mean_s - 0.01)
    assert target(behind) is None
    await clock.advance(0.02)
    assert target(behind) is jobs.two


async def test_what_nobody_heard_begin_is_waited_for_once(jobs: Jobs, clock: ManualClock) -> None:
    """Perhaps somebody else's prompt runs there; as soon as more is known it is foreseen anew."""
    key = jobs.sent_by_client(jobs.one)
    behind = jobs.sent(jobs.one)
    await settle()
    jobs.looks = 0
    await clock.advance(HOUR_S)
    assert (target(behind), jobs.looks, clock.waiting) == (None, 1, 0)
    jobs.begins_of(jobs.one, key)
    jobs.cluster.scheduler.rebalancing.ask()  # as whoever has asked the instance does
    await clock.advance(MOMENT_S + 0.01)
    assert target(behind) is jobs.two


async def test_events_elsewhere_put_off_nothing(jobs: Jobs, clock: ManualClock) -> None:
    """Each of them has work looked at, and the moment is foreseen anew."""
    first, behind = jobs.sent(jobs.one), jobs.sent(jobs.one)
    await settle()
    jobs.begins(first)
    for _ in range(120):
        jobs.cluster.scheduler.rebalancing.ask()
        await clock.advance(0.1)
    assert target(behind) is jobs.two


async def test_another_idle_instance_is_foreseen_where_the_first_cannot_run_it(
    make_cluster: Callable[..., Cluster], clock: ManualClock
) -> None:
    jobs = Jobs(make_cluster(*(f"gpu{number}:1" for number in range(1, 6))))
    last = jobs.cluster.instances[-1]
    first = jobs.sent(jobs.one)
    behind = jobs.sent(jobs.one, accepts=lambda instance: instance is last)
    jobs.begins(first)
    await clock.advance(MOMENT_S - 0.01)
    assert target(behind) is None
    await clock.advance(0.02)
    assert target(behind) is last


async def test_few_of_many_idle_instances_are_looked_at_for_one_prompt(
    make_cluster: Callable[..., Cluster], clock: ManualClock
) -> None:
    """What it costs at each is worked out once for all that are of its sort."""
    jobs = Jobs(make_cluster(*(f"gpu{number}:1" for number in range(1, 101))))
    asked: list[Instance] = []

    def accepts(instance: Instance) -> bool:
        asked.append(instance)
        return False

    late_runs = LateRuns(
        jobs.cluster.planner,
        clock,
        instances=lambda: jobs.cluster.instances,
        movable=lambda busy: [Movable(behind, accepts)],
        again=lambda: None,
    )
    first, behind = jobs.sent(jobs.one), jobs.sent(jobs.one)
    jobs.begins(first)
    late_runs.foresee()
    assert len(asked) == MAX_TRIED


async def test_an_instance_is_told_once_for_what_should_run(jobs: Jobs, clock: ManualClock) -> None:
    """To whoever can ask it: the timer goes off once for each prompt."""
    again: list[float] = []
    late_runs = LateRuns(
        jobs.cluster.planner,
        clock,
        instances=lambda: jobs.cluster.instances,
        movable=lambda busy: [],
        again=lambda: again.append(clock.monotonic()),
    )
    begun = clock.monotonic()
    keys = [jobs.sent_by_client(jobs.one) for _ in range(3)]
    told: list[list[Instance]] = []
    for _ in range(3):
        late_runs.foresee()
        assert late_runs.unheard() == []
        await clock.advance(60.0)
        told.append(late_runs.unheard())
    assert told == [[jobs.one], [], []]
    assert again == [begun + RUN_S]
    jobs.cluster.planner.lines[jobs.one].leave(keys[0])
    late_runs.foresee()
    await clock.advance(60.0)
    assert late_runs.unheard() == [jobs.one]


async def test_nothing_is_kept_of_what_has_begun_or_of_anything_at_the_end(
    jobs: Jobs, clock: ManualClock
) -> None:
    late_runs = LateRuns(
        jobs.cluster.planner,
        clock,
        instances=lambda: jobs.cluster.instances,
        movable=lambda busy: [],
        again=lambda: None,
    )
    keys = [jobs.sent_by_client(jobs.one) for _ in range(3)]
    late_runs.foresee()
    assert (len(late_runs._firsts), clock.waiting) == (1, 1)
    jobs.begins_of(jobs.one, keys[0])
    late_runs.foresee()
    assert (len(late_runs._firsts), clock.waiting) == (0, 0)
    jobs.cluster.planner.lines[jobs.one].leave(keys[0])
    late_runs.foresee()
    late_runs.close()
    assert (len(late_runs._firsts), clock.waiting) == (0, 0)


async def test_no_instance_is_told_too_early(jobs: Jobs, clock: ManualClock) -> None:
    """The timer may go off for another one; and each look sets it anew, for the same moment."""
    late_runs = LateRuns(
        jobs.cluster.planner,
        clock,
        instances=lambda: jobs.cluster.instances,
        movable=lambda busy: [],
        again=lambda: None,
    )
    for _ in range(3):
        jobs.sent_by_client(jobs.one)
    for _ in range(9):
        late_runs.foresee()
        late_runs._go_off()
        assert late_runs.unheard() == []
        await clock.advance(RUN_S / 10)
    late_runs.foresee()
    await clock.advance(RUN_S / 10)
    assert late_runs.unheard() == [jobs.one]
