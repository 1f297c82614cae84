"""cluster/planning/door_plan.py: who of those that wait for a place goes where, and when."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from manual_clock import ManualClock
from plan_harness import LOAD_S, RUN_S, has_loaded, planner_of, teach, work

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.load_balancer import LoadBalancer
from comfy_proxy.cluster.planning.door_plan import LOOKAHEAD, DoorPlan
from comfy_proxy.cluster.planning.planner import Planner
from comfy_proxy.cluster.planning.work import Work
from comfy_proxy.cluster.waiter import Waiter

A, B = work("a"), work("b")


@pytest.fixture
def planner(clock: ManualClock) -> Planner:
    made = planner_of(clock)
    teach(made, A, B)
    return made


def waiters(clock: ManualClock, *works: Work | None) -> list[Waiter]:
    """One for each, in this order; they came just now, one after the other."""
    now = clock.monotonic()
    return [
        Waiter(rank=now + number / 1000, work_at=lambda instance, what=one: what)
        for number, one in enumerate(works)
    ]


def plan(planner: Planner, waiting: Sequence[Waiter]) -> DoorPlan:
    instances = list(planner.lines)
    return DoorPlan(planner, instances, waiting, LoadBalancer(instances).rank)


def split(made: DoorPlan, waiting: Sequence[Waiter]) -> dict[str, list[int]]:
    """Instance's id → who goes there, in this order."""
    return {
        instance.id: [waiting.index(one) for one in there]
        for instance, there in made.order()
        if there
    }


def test_two_kinds_have_an_instance_each(planner: Planner, clock: ManualClock) -> None:
    """As long as both are asked for: neither pays more than one load."""
    waiting = waiters(clock, *[A, B] * 4)
    assert split(plan(planner, waiting), waiting) == {"1": [0, 2, 4, 6], "2": [1, 3, 5, 7]}


def test_what_is_loaded_decides_which(planner: Planner, clock: ManualClock) -> None:
    one, two = planner.lines
    has_loaded(planner, one, "b")
    has_loaded(planner, two, "a")
    waiting = waiters(clock, *[A, B] * 4)
    assert split(plan(planner, waiting), waiting) == {"2": [0, 2, 4, 6], "1": [1, 3, 5, 7]}


def test_one_kind_has_both(planner: Planner, clock: ManualClock) -> None:
    """When only it is asked for, and there are more than a load is long."""
    has_loaded(planner, next(iter(planner.lines)), "a")
    waiting = waiters(clock, *[A] * 30)
    there = split(plan(planner, waiting), waiting)
    assert len(there["1"]) - len(there["2"]) in range(9, 12)  # a load's worth of runs
    assert sum(map(len, there.values())) == 30


def test_a_few_of_one_kind_are_not_worth_a_load(planner: Planner, clock: ManualClock) -> None:
    has_loaded(planner, next(iter(planner.lines)), "a")
    waiting = waiters(clock, *[A] * 5)
    assert split(plan(planner, waiting), waiting) == {"1": [0, 1, 2, 3, 4]}


def test_work_that_shares_its_models_goes_together(clock: ManualClock) -> None:
    """At one instance: those of the second model wait for those of the first."""
    planner = planner_of(clock, 1)
    teach(planner, A, B)
    waiting = waiters(clock, *[A, B] * 4)
    made = plan(planner, waiting)
    assert split(made, waiting) == {"1": [0, 2, 4, 6, 1, 3, 5, 7]}
    last = made.figures[waiting[7]]
    assert last.finish_s == pytest.approx(2 * LOAD_S + 8 * RUN_S)


def test_nobody_is_kept_waiting_beyond_the_patience(clock: ManualClock) -> None:
    """The order is that in which they came once its time is up."""
    planner = planner_of(clock, 1, patience_s=0)
    teach(planner, A, B)
    waiting = waiters(clock, *[A, B] * 2)
    assert split(plan(planner, waiting), waiting) == {"1": [0, 1, 2, 3]}


def test_equals_are_shared_out(planner: Planner, clock: ManualClock) -> None:
    """Work without models, on idle instances: as ever, in turn."""
    teach(planner, work())
    waiting = waiters(clock, *[work()] * 6)
    assert {key: len(there) for key, there in split(plan(planner, waiting), waiting).items()} == {
        "1": 3,
        "2": 3,
    }


def test_it_goes_where_it_can_run(planner: Planner, clock: ManualClock) -> None:
    _, two = planner.lines
    waiting = waiters(clock, A, A, A, A)
    for waiter in waiting:
        waiter.accepts = lambda instance: instance is two
    assert split(plan(planner, waiting), waiting) == {"2": [0, 1, 2, 3]}
    for waiter in waiting:
        waiter.passed_over = {two}
    assert split(plan(planner, waiting), waiting) == {}


def test_those_of_whom_nothing_is_known_have_no_figure(clock: ManualClock) -> None:
    """Of their work, or of what any work costs."""
    planner = planner_of(clock)
    waiting = waiters(clock, A, None)
    assert plan(planner, waiting).figures == {}
    teach(planner, A)
    made = plan(planner, waiting)
    assert set(made.figures) == {waiting[0]}
    assert split(made, waiting) == {"1": [0]}


def test_what_waits_there_already_comes_first(planner: Planner, clock: ManualClock) -> None:
    """With the loads that it causes; what will be loaded then counts."""
    one, two = planner.lines
    for number, what in enumerate((B, A)):
        there = planner.slot(number, what, one)
        there.number = number
        planner.lines[one].join(there)
        one.placements.append(there)  # type: ignore[arg-type]
    planner.lines[two].offset_s = 100.0
    waiting = waiters(clock, A)
    figure = plan(planner, waiting).figures[waiting[0]]
    assert figure.instance is one
    assert figure.option.load_s == 0
    assert figure.finish_s == pytest.approx(2 * LOAD_S + 3 * RUN_S)


def test_the_first_are_planned(planner: Planner, clock: ManualClock) -> None:
    """The others will be when some of these have left."""
    waiting = waiters(clock, *[A, B] * LOOKAHEAD)
    made = plan(planner, waiting)
    assert set(made.figures) == set(waiting[:LOOKAHEAD])
    assert sum(len(there) for _, there in made.order()) == LOOKAHEAD


def test_a_plan_changes_nothing(planner: Planner, clock: ManualClock) -> None:
    before = [(line.changes, len(line)) for line in planner.lines.values()]
    instances: list[Instance] = list(planner.lines)
    plan(planner, waiters(clock, *[A, B] * 9))
    assert [(planner.lines[one].changes, len(planner.lines[one])) for one in instances] == before


def test_it_ends_where_the_free_places_are_taken_by_those_that_need_no_load(
    planner: Planner, clock: ManualClock
) -> None:
    """Nobody behind them could come ahead of them: at many instances most of the work is saved."""
    one, two = planner.lines
    has_loaded(planner, one, "a")
    waiting = waiters(clock, *[A, B] * 8)
    made = DoorPlan(
        planner,
        [one, two],
        waiting,
        LoadBalancer([one, two]).rank,
        lambda made: made.fills(one, 2),
    )
    assert split(made, waiting)["1"] == [0, 2]
    assert len(made.figures) == 3


def test_a_place_is_not_filled_by_one_that_needs_a_load(
    planner: Planner, clock: ManualClock
) -> None:
    """One that comes later may have its models loaded there, and go first."""
    one, two = planner.lines
    has_loaded(planner, one, "a")
    waiting = waiters(clock, B, A)
    made = plan(planner, waiting[:1])
    assert not made.fills(one, 1)
    assert not made.fills(two, 1)


def test_a_place_is_not_filled_by_one_that_needs_no_model(
    planner: Planner, clock: ManualClock
) -> None:
    """One that comes later may be better placed before it: its models are still loaded."""
    one, _ = planner.lines
    has_loaded(planner, one, "a")
    teach(planner, work())
    made = plan(planner, waiters(clock, work())[:1])
    assert not any(made.fills(instance, 1) for instance in planner.lines)
