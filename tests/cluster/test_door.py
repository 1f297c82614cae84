"""cluster/door.py: who of those that wait gets the next place that is free."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from manual_clock import ManualClock, settle
from plan_harness import LOAD_S, RUN_S, has_loaded, teach, work

from comfy_proxy.cluster import door
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.door import RELOOK_S
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.planning.door_plan import LOOKAHEAD, DoorPlan
from comfy_proxy.cluster.planning.joining import PATIENCE_LOADS
from comfy_proxy.cluster.planning.work import Work

A, B = work("a"), work("b")


class Jobs:
    """Jobs at the door of a cluster whose instances pass every check, each a task."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.tasks: list[asyncio.Task[Placement]] = []
        self.got: list[tuple[int, str]] = []  # the number of each that has a place, and where

    async def come(self, *works: Work | None, only: Instance | None = None) -> None:
        """Each a moment after the one before; they can run at ``only`` alone, if given."""
        for what in works:
            number = len(self.tasks)
            self.tasks.append(asyncio.create_task(self._job(number, what, only)))
            await settle()

    async def _job(self, number: int, what: Work | None, only: Instance | None) -> Placement:
        since = self.cluster.clock.monotonic() + number / 1000
        placement = await self.cluster.scheduler.place(
            since=since, work_at=lambda at: what, accepts=lambda at: only in (None, at)
        )
        self.got.append((number, placement.instance.id))
        line = self.cluster.planner.lines[placement.instance]
        if line.running is None:
            line.begin(placement.key, self.cluster.clock.monotonic())
        return placement

    async def end(self, number: int) -> None:
        """Its place is given back."""
        self.tasks[number].result().release()
        await settle()

    async def leave(self, number: int) -> None:
        self.tasks[number].cancel()
        await asyncio.wait([self.tasks[number]])
        await settle()


@pytest.fixture
def make_jobs(
    make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Jobs]:
    """Two instances that keep one prompt's models each and take one prompt each; costs known."""

    async def check(self: ComfyUIClient, timeout_s: float) -> None:
        """Every instance answers."""

    monkeypatch.setattr(ComfyUIClient, "check", check)

    def make(*hosts: str, learned: bool = True, places: int = 1) -> Jobs:
        cluster = make_cluster(
            *(hosts or ("gpu1:1", "gpu2:1")), max_connections_per_instance=places
        )
        for line in cluster.planner.lines.values():
            line.loaded.memory.sets = 1
        if learned:
            teach(cluster.planner, A, B)
        return Jobs(cluster)

    return make


@pytest.fixture
def jobs(make_jobs: Callable[..., Jobs]) -> Jobs:
    return make_jobs()


async def test_each_kind_has_its_instance(jobs: Jobs) -> None:
    """Whoever came first, and whichever place becomes free first."""
    for instance, model in zip(jobs.cluster.instances, "ab", strict=True):
        has_loaded(jobs.cluster.planner, instance, model)
    await jobs.come(A, B, A, B, A, B)
    assert jobs.got == [(0, "1"), (1, "2")]
    await jobs.end(1)
    await jobs.end(0)
    assert jobs.got[2:] == [(3, "2"), (2, "1")]
    await jobs.end(2)
    assert jobs.got[4:] == [(4, "1")]


async def test_one_waits_for_a_full_instance_if_it_is_finished_earlier_there(jobs: Jobs) -> None:
    """A run of 1 s ahead of it, or a load of 10 s at the one that is free."""
    one, two = jobs.cluster.instances
    has_loaded(jobs.cluster.planner, one, "a")
    await jobs.come(A, A)
    assert jobs.got == [(0, "1")]
    assert two.available
    await jobs.end(0)
    assert jobs.got == [(0, "1"), (1, "1")]


async def test_one_takes_what_is_free_while_nothing_is_known(
    make_jobs: Callable[..., Jobs],
) -> None:
    """The fewest prompts, and who came first."""
    jobs = make_jobs(learned=False)
    has_loaded(jobs.cluster.planner, jobs.cluster.instances[0], "a")
    await jobs.come(A, A, B, A)
    assert jobs.got == [(0, "1"), (1, "2")]
    await jobs.end(1)
    await jobs.end(0)
    assert jobs.got[2:] == [(2, "2"), (3, "1")]


async def test_work_that_is_not_known_takes_what_the_others_leave(jobs: Jobs) -> None:
    """They wait for the first one; the second is free."""
    has_loaded(jobs.cluster.planner, jobs.cluster.instances[0], "a")
    await jobs.come(A, A, None)
    assert jobs.got == [(0, "1"), (2, "2")]


async def test_who_came_first_is_not_passed_over_because_its_work_is_unknown(
    make_jobs: Callable[..., Jobs],
) -> None:
    """Others of which everything is known come all the time."""
    jobs = make_jobs("gpu:1")
    has_loaded(jobs.cluster.planner, jobs.cluster.instances[0], "a")
    await jobs.come(A, None, A)
    await jobs.end(0)
    assert jobs.got == [(0, "1"), (1, "1")]


async def test_who_would_overtake_a_prompt_at_the_instance_gets_a_place(
    make_jobs: Callable[..., Jobs],
) -> None:
    """Its model runs there, another one's prompt waits there behind that, and a place is free."""
    jobs = make_jobs("gpu:1", places=3)
    has_loaded(jobs.cluster.planner, jobs.cluster.instances[0], "a")
    await jobs.come(A, B, A)
    assert jobs.got == [(0, "1"), (1, "1"), (2, "1")]


async def test_those_who_cannot_use_a_free_instance_keep_nobody_from_it(jobs: Jobs) -> None:
    """However many wait before the one that can."""
    one, two = jobs.cluster.instances
    await jobs.come(*[A] * (LOOKAHEAD + 2), only=one)
    await jobs.come(B, only=two)
    assert jobs.got == [(0, "1"), (LOOKAHEAD + 2, "2")]


async def test_those_who_are_better_off_elsewhere_keep_nobody_from_a_free_instance(
    make_jobs: Callable[..., Jobs],
) -> None:
    """They wait for the model that is loaded at a full instance; one that came last, and is beyond
    what is planned, has its own at the free one."""
    jobs = make_jobs(learned=False)
    teach(jobs.cluster.planner, A, B, load_s=100.0)
    for instance, model in zip(jobs.cluster.instances, "ab", strict=True):
        has_loaded(jobs.cluster.planner, instance, model)
    await jobs.come(*[A] * (LOOKAHEAD + 2), B)
    assert jobs.got == [(0, "1"), (LOOKAHEAD + 2, "2")]


async def test_all_who_wait_are_looked_at_again_together(
    jobs: Jobs, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instance is free that none of them can use: time goes by, and nobody plans for himself."""
    await jobs.come(*[A] * 40, only=jobs.cluster.instances[0])
    plans: list[DoorPlan] = []

    class Counted(DoorPlan):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            plans.append(self)

    monkeypatch.setattr(door, "DoorPlan", Counted)
    await clock.advance(RELOOK_S)
    await settle()
    assert len(plans) == 1
    assert plans[0].figures == {}


@pytest.mark.parametrize("places", [1, 2])
async def test_those_that_share_their_models_go_together(
    make_jobs: Callable[..., Jobs], places: int
) -> None:
    """At one instance: one of another model that came in between waits, however few places are."""
    jobs = make_jobs("gpu:1", places=places)
    await jobs.come(A, *[B, A] * 3)
    order = []
    for done in range(7):
        order += [number for number, _ in jobs.got[len(order) :]]
        await jobs.end(order[done])
    # With two places the second one has come before there was anything to put together.
    assert order == ([0, 2, 4, 6, 1, 3, 5] if places == 1 else [0, 1, 3, 5, 2, 4, 6])


async def test_who_is_overtaken_at_the_door_gets_a_place_when_its_patience_ends(
    make_jobs: Callable[..., Jobs],
) -> None:
    """Each opening plans anew, and remembers for how long who was overtaken: an endless stream for
    the model that is loaded goes ahead for four loads and the time of its own run, no longer."""
    jobs = make_jobs("gpu:1")
    has_loaded(jobs.cluster.planner, jobs.cluster.instances[0], "a")
    await jobs.come(A, A, B, A)
    ahead_s = 0.0
    while 2 not in dict(jobs.got):
        await jobs.come(A)
        await jobs.end(jobs.got[-1][0])
        ahead_s += RUN_S
    patience_s = PATIENCE_LOADS * LOAD_S + RUN_S
    assert patience_s - 3 * RUN_S <= ahead_s <= patience_s + 3 * RUN_S


async def test_no_more_places_than_there_is_room_for(jobs: Jobs) -> None:
    """MAX_CONCURRENT_JOBS; as soon as there is some the next one gets the place."""
    room = 1
    jobs.cluster.scheduler.door.room = lambda: room - len(jobs.got)
    await jobs.come(A, B, B)
    assert jobs.got == [(0, "1")]
    room = 2
    jobs.cluster.scheduler.door.open()
    await settle()
    assert jobs.got == [(0, "1"), (1, "2")]
    assert len(jobs.cluster.scheduler.door) == 1


async def test_who_leaves_while_waiting_leaves_nothing_behind(jobs: Jobs) -> None:
    for instance, model in zip(jobs.cluster.instances, "ab", strict=True):
        has_loaded(jobs.cluster.planner, instance, model)
    await jobs.come(A, B, A, B)
    await jobs.leave(2)
    await jobs.end(0)
    assert jobs.got[2:] == []
    assert [one.active_jobs for one in jobs.cluster.instances] == [0, 1]
    await jobs.end(1)
    assert jobs.got[2:] == [(3, "2")]
    assert len(jobs.cluster.scheduler.door) == 0


async def test_who_leaves_with_a_place_not_yet_taken_gives_it_back(jobs: Jobs) -> None:
    """It was given the place, and is cancelled before it could take it: the next one has it."""
    await jobs.come(A, B, A, A)
    placement = jobs.tasks[0].result()
    placement.release()  # the third one has it now, and has not run since
    jobs.tasks[2].cancel()
    await settle()
    assert jobs.tasks[2].cancelled()
    assert jobs.got[2:] == [(3, "1")]
    assert [one.active_jobs for one in jobs.cluster.instances] == [1, 1]


async def test_an_opening_wakes_only_who_gets_a_place(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be a thousand of them."""
    await jobs.come(*[A] * 40)
    waiting = list(jobs.cluster.scheduler.door._waiting)
    assert len(waiting) == 38
    jobs.tasks[0].result().release()
    assert sum(one.woken.is_set() for one in waiting) == 1


async def test_those_that_nobody_can_take_any_more_are_told(jobs: Jobs, clock: ManualClock) -> None:
    """Their patience runs from when the last instance was usable."""
    await jobs.come(A, B, A)
    one, two = jobs.cluster.instances
    for instance in (one, two):
        for _ in range(3):
            instance.check_failed("refused")
    await jobs.end(0)
    assert not jobs.tasks[2].done()
    await clock.advance(jobs.cluster.settings.pending_timeout_s + 1)
    assert jobs.tasks[2].done()
    assert type(jobs.tasks[2].exception()).__name__ == "NoHealthyInstanceError"


async def test_one_that_waits_beside_a_free_instance_looks_again(
    jobs: Jobs, clock: ManualClock
) -> None:
    """What runs takes much longer than was foreseen, and nothing else happens that would tell."""
    one, two = jobs.cluster.instances
    has_loaded(jobs.cluster.planner, one, "a")
    await jobs.come(A, A)
    assert jobs.got == [(0, "1")]
    for _ in range(20):
        await clock.advance(RELOOK_S)
    assert jobs.got == [(0, "1"), (1, "2")]
    assert not two.available


async def test_one_that_waits_for_an_instance_that_fails_goes_elsewhere_at_once(
    jobs: Jobs,
) -> None:
    one, _ = jobs.cluster.instances
    has_loaded(jobs.cluster.planner, one, "a")
    await jobs.come(A, A)
    for _ in range(3):
        one.check_failed("refused")
    await settle()
    assert jobs.got == [(0, "1"), (1, "2")]
