"""cluster/planning/planner.py: which instance finishes a prompt first, and what is kept of it."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from manual_clock import ManualClock
from plan_harness import LOAD_S, RUN_S, has_loaded, keys, planner_of, slot, teach, work

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.planning.demand import DEMAND_LOADS
from comfy_proxy.cluster.planning.figures import MAX_KEPT, Figures, tie_s
from comfy_proxy.cluster.planning.late_runs import LateRun
from comfy_proxy.cluster.planning.planner import Planner
from comfy_proxy.cluster.planning.slot import Standing
from comfy_proxy.cluster.planning.work import Work

A, B = work("a"), work("b")


@pytest.fixture
def planner(clock: ManualClock) -> Planner:
    """Two instances; what two works cost is known."""
    made = planner_of(clock)
    teach(made, A, B)
    return made


def pair(planner: Planner) -> tuple[Instance, Instance]:
    one, two = planner.lines
    return one, two


def best(planner: Planner, what: Work, **options: Any) -> list[Instance]:
    new = planner.slot("new", what, next(iter(planner.lines)), Standing(**options))
    return [figure.instance for figure in planner.best(new, list(planner.lines))]


def joins(planner: Planner, instance: Instance, key: Any, what: Work, number: float = 0) -> None:
    planner.lines[instance].join(planner.slot(key, what, instance))
    planner.lines[instance].numbered(key, number)
    instance.placements.append(key)


# --- which -------------------------------------------------------------------------------------


def test_while_nothing_is_known_there_is_no_figure(clock: ManualClock) -> None:
    """Then the fewest prompts decide."""
    planner = planner_of(clock)
    assert best(planner, A) == []
    has_loaded(planner, pair(planner)[1], "a")
    assert best(planner, A) == []


def test_equals_are_all_told(planner: Planner) -> None:
    assert best(planner, A) == list(planner.lines)


def test_where_its_models_are_loaded(planner: Planner) -> None:
    _, two = pair(planner)
    has_loaded(planner, two, "a")
    assert best(planner, A) == [two]


def test_behind_others_as_long_as_that_is_shorter_than_a_load(planner: Planner) -> None:
    """Nine prompts of 1 s, or a load of 10 s: it waits for them; for twelve it does not."""
    one, two = pair(planner)
    has_loaded(planner, two, "a")
    for number in range(9):
        joins(planner, two, number, A, number)
    assert best(planner, A) == [two]
    for number in range(9, 12):
        joins(planner, two, number, A, number)
    assert best(planner, A) == [one]


def test_loads_of_those_ahead_count(planner: Planner) -> None:
    """One prompt there takes longer than three here if it has to load."""
    one, two = pair(planner)
    has_loaded(planner, one, "a")
    has_loaded(planner, two, "a")
    joins(planner, one, "x", B)
    for number in range(3):
        joins(planner, two, number, A, number)
    assert best(planner, A) == [two]


def test_what_runs_there_counts_until_it_ends(planner: Planner, clock: ManualClock) -> None:
    one, two = pair(planner)
    for instance in (one, two):
        has_loaded(planner, instance, "a")
        joins(planner, instance, instance.id, A)
    planner.lines[one].begin("1", clock.monotonic() - 0.9 * RUN_S)
    planner.lines[two].begin("2", clock.monotonic())
    assert best(planner, A) == [one]
    assert planner.end_in_s("1", one) == pytest.approx(0.1 * RUN_S)
    assert planner.end_in_s("unknown", one) is None


def test_prompts_of_strangers_count_as_average_ones(planner: Planner) -> None:
    """Nothing else is known of them."""
    one, two = pair(planner)
    one.prompts.observed(2)
    assert planner.free_in_s(one) == pytest.approx(2 * RUN_S)
    assert planner.free_in_s(two) == 0
    assert best(planner, A) == [two]
    joins(planner, one, "x", A)
    assert planner.end_in_s("x", one) == pytest.approx(3 * RUN_S + LOAD_S)


def test_finishes_within_a_tie_are_equal(planner: Planner) -> None:
    """By less than that nobody knows them."""
    one, two = pair(planner)
    for instance in (one, two):
        has_loaded(planner, instance, "a")
    line = planner.lines[one]
    line.offset_s = 0.9 * tie_s(RUN_S)
    assert best(planner, A) == [two, one]
    line.offset_s = 1.1 * tie_s(RUN_S)
    assert best(planner, A) == [two]


def test_a_kind_that_never_ran_counts_as_an_average_one(planner: Planner) -> None:
    """And its models as average loads."""
    one, _ = pair(planner)
    assert planner.run_s(work("new"), one) == pytest.approx(RUN_S)
    figure = planner.figures(slot("new", work("new")), [one])[0]
    assert figure.finish_s == pytest.approx(RUN_S + LOAD_S)


def test_an_instance_that_is_faster(clock: ManualClock) -> None:
    planner = planner_of(clock)
    one, two = pair(planner)
    for instance, seconds in ((one, 4.0), (two, 1.0)):
        planner.costs.learn(instance, work(), seconds, loaded=(), now=0.0)
    assert best(planner, work()) == [two]
    for number in range(5):
        joins(planner, two, number, work(), number)
    assert best(planner, work()) == [one]


# --- harm --------------------------------------------------------------------------------------


def test_a_model_in_demand_is_not_pushed_out(planner: Planner, clock: ManualClock) -> None:
    """Another instance, which is as far, loads it: the one that has to go is loaded again soon."""
    one, two = pair(planner)
    has_loaded(planner, one, "a")
    planner.asked(A)
    assert best(planner, B) == [two]
    figure = planner.figures(slot("new", B), [one])[0]
    assert (figure.harm_s, figure.extra_s) == (pytest.approx(LOAD_S), pytest.approx(2 * LOAD_S))


async def test_a_demand_is_forgotten(planner: Planner, clock: ManualClock) -> None:
    """After some loads' time. An option that was worked out before counts no longer then."""
    one, two = pair(planner)
    has_loaded(planner, one, "a")
    planner.asked(A)
    assert best(planner, B) == [two]
    await clock.advance(DEMAND_LOADS * LOAD_S + 11)
    assert best(planner, B) == [one, two]


def test_a_model_that_stays_is_not_harmed(planner: Planner) -> None:
    one, two = pair(planner)
    planner.lines[one].loaded.memory.sets = 2
    has_loaded(planner, one, "a")
    planner.asked(A)
    assert best(planner, B) == [one, two]


# --- what was worked out before ------------------------------------------------------------------


@pytest.mark.parametrize("change", ["join", "leave", "begin", "forgotten", "costs"])
def test_an_option_is_worked_out_anew_after_a_change(
    planner: Planner, clock: ManualClock, change: str
) -> None:
    """Of its line, of what is loaded there or of the costs: the same question, another answer."""
    one, _ = pair(planner)
    has_loaded(planner, one, "a")
    joins(planner, one, "first", A, 1)
    before = figure_of(planner, one)
    steps = {
        "join": lambda: joins(planner, one, "second", A, 2),
        "leave": lambda: planner.lines[one].leave("first"),
        "begin": lambda: planner.lines[one].begin("first", clock.monotonic()),
        "forgotten": lambda: planner.forget_loaded(one),
        "costs": lambda: [
            planner.costs.learn(one, A, 50.0, loaded=(), now=clock.monotonic()) for _ in range(20)
        ],
    }
    steps[change]()
    assert figure_of(planner, one) != before
    fresh = planner_like(planner, clock)
    assert figure_of(planner, one) == figure_of(fresh, one)


def figure_of(planner: Planner, instance: Instance) -> tuple[float, float, float]:
    option = planner.figures(slot("new", A), [instance])[0].option
    return option.behind_s, option.load_s, option.run_s


def planner_like(planner: Planner, clock: ManualClock) -> Planner:
    """With the same lines and costs, and nothing worked out before."""
    fresh = planner_of(clock)
    fresh.lines, fresh.costs = planner.lines, planner.costs
    fresh._figures = Figures(planner.lines, planner.costs, planner._demand, clock.monotonic)
    return fresh


def test_demand_is_seen_at_once(planner: Planner) -> None:
    """A choice of the same sort has just been made, when nobody had asked for what is loaded."""
    one, two = pair(planner)
    has_loaded(planner, one, "b")
    assert best(planner, A) == [one, two]
    planner.asked(B)
    assert best(planner, A) == [two]


def test_what_is_kept_keeps_no_prompt_alive(planner: Planner) -> None:
    """A choice that would overtake it was worked out; then it has ended."""

    class Prompt:
        """What a slot is of."""

    one, _ = pair(planner)
    has_loaded(planner, one, "a")
    joins(planner, one, "running", A, 1)
    planner.lines[one].begin("running", 0.0)
    prompt = Prompt()
    alive = weakref.ref(prompt)
    planner.join(planner.slot(prompt, B, one), one)
    best(planner, A)
    planner.lines[one].leave(prompt)
    del prompt
    gc.collect()
    assert alive() is None


def test_no_move_behind_a_long_prompt(clock: ManualClock) -> None:
    """Fewer prompts are there, and it would be finished much later."""
    planner = planner_of(clock)
    short, long = work(kind="picture"), work(kind="video")
    for instance in planner.lines:
        planner.costs.learn(instance, short, 1.0, loaded=(), now=0)
        planner.costs.learn(instance, long, 1000.0, loaded=(), now=0)
    idle, busy = planner.lines
    planner.join(planner.slot("long", long, idle), idle)
    planner.lines[idle].begin("long", clock.monotonic())
    for number in range(3):
        planner.join(planner.slot(number, short, busy), busy)
    planner.lines[busy].begin(0, clock.monotonic())
    assert not planner.gains(2, busy, idle)
    planner.lines[idle].leave("long")
    assert planner.gains(2, busy, idle)


def test_no_more_options_are_kept_than_there_is_room_for(planner: Planner) -> None:
    for number in range(3 * MAX_KEPT):
        best(planner, work("a", size=str(number)))
    assert len(planner._figures._kept) <= MAX_KEPT


# --- where in the line -------------------------------------------------------------------------


def test_it_joins_behind_its_own(planner: Planner) -> None:
    one, _ = pair(planner)
    joins(planner, one, 1, A, 1)
    joins(planner, one, 2, B, 2)
    for key, what, standing in (
        ("a", A, Standing()),
        ("b", B, Standing()),
        ("fixed", A, Standing(fixed=True)),
    ):
        planner.join(planner.slot(key, what, one, standing), one)
    assert keys(planner.lines[one]) == [1, "a", 2, "b", "fixed"]


# --- moves -------------------------------------------------------------------------------------


def waits_behind(planner: Planner, busy: Instance, count: int, what: Work) -> None:
    """``moving`` behind ``count`` others that share its models, which are loaded."""
    has_loaded(planner, busy, "a")
    for number in range(count):
        joins(planner, busy, number, A, number)
    joins(planner, busy, "moving", what, count)


def test_a_move_must_pay_for_the_load_that_it_causes(planner: Planner, clock: ManualClock) -> None:
    """Behind five prompts of 1 s it stays; behind fifteen it loads elsewhere."""
    one, two = pair(planner)
    waits_behind(planner, one, 5, A)
    assert not planner.gains("moving", one, two)
    planner = planner_like(planner, clock)
    for number in range(6, 16):
        joins(planner, one, number, A, number / 100)
    assert planner.gains("moving", one, two)


def test_a_move_to_where_its_models_are_gains(planner: Planner) -> None:
    one, two = pair(planner)
    waits_behind(planner, one, 1, A)
    has_loaded(planner, two, "a")
    assert planner.gains("moving", one, two)


def test_a_move_that_harms_others_must_pay_for_that_too(planner: Planner) -> None:
    """Twelve prompts are longer than one load, and shorter than two."""
    one, two = pair(planner)
    waits_behind(planner, one, 12, A)
    assert planner.gains("moving", one, two)
    has_loaded(planner, two, "b")
    planner.asked(B)
    assert not planner.gains("moving", one, two)


async def test_when_a_move_gains_because_what_runs_is_late(
    planner: Planner, clock: ManualClock
) -> None:
    """The moment is foreseen: before it a move does not gain, after it it does."""
    one, two = pair(planner)
    waits_behind(planner, one, 1, A)
    has_loaded(planner, two, "b")
    planner.asked(B)

    def gains_in_s() -> float | None:
        slot = planner.lines[one].find("moving")
        assert slot is not None
        (figure,) = planner.figures(slot, [two])
        return LateRun(planner, one, clock.monotonic()).gains_in_s(slot, figure)

    assert gains_in_s() is None
    planner.lines[one].begin(0, clock.monotonic())
    assert not planner.gains("moving", one, two)
    seconds = gains_in_s()
    assert seconds is not None
    await clock.advance(seconds - 0.001)
    assert not planner.gains("moving", one, two)
    await clock.advance(0.001)
    assert planner.gains("moving", one, two)
    assert gains_in_s() is None


def test_while_nothing_is_known_a_move_is_as_ever(clock: ManualClock) -> None:
    """Also of a prompt that nobody knows here."""
    planner = planner_of(clock)
    one, two = pair(planner)
    assert planner.gains("unknown", one, two)
    joins(planner, one, "x", A)
    joins(planner, one, "y", A, 1)
    assert planner.gains("y", one, two)


# --- many at once ------------------------------------------------------------------------------


def test_a_long_queue_of_many_models_costs_few_loads(clock: ManualClock) -> None:
    """Sixty prompts of four models by turns, over two instances that keep one each, with runs of
    half a load, so that most wait for longer than anybody's patience."""
    works = [work(model) for model in "aabcd"]
    planner = planner_of(clock)
    teach(planner, *works, run_s=LOAD_S / 2)
    first, *_ = planner.lines
    for number in range(60):
        what = works[number % len(works)]
        planner.asked(what)
        slot = planner.slot(number, what, first)
        instance = planner.best(slot, list(planner.lines))[0].instance
        planner.join(planner.slot(number, what, instance), instance)
    loads = 0
    for line in planner.lines.values():
        assert len(line) > 20
        loads += sum(one.load_s > 0 for one in line.waiting)
    assert loads <= 12  # by their turns alone it would be one for nearly each
