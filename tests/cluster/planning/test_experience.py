"""cluster/planning/experience.py: what an execution teaches, and what it tells of the memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
from manual_clock import ManualClock
from plan_harness import LOAD_S, RUN_S, has_loaded, planner_of, slot, teach, work

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.planning.experience import FIRST_RUNS, LOAD_SHARE, Experience, Run
from comfy_proxy.cluster.planning.planner import Planner
from comfy_proxy.cluster.planning.samples import ENOUGH_RUNS
from comfy_proxy.cluster.planning.work import Work

A, B, PLAIN = work("a"), work("b"), work()
COLD_S = LOAD_S + RUN_S


@pytest.fixture
def planner(clock: ManualClock) -> Planner:
    """Two instances; nothing is known of costs."""
    return planner_of(clock)


@pytest.fixture
def experience(planner: Planner, clock: ManualClock) -> Experience:
    return Experience(planner, clock)


@pytest.fixture
def one(planner: Planner) -> Instance:
    return next(iter(planner.lines))


class Runs:
    """Has prompts run at one instance; ``heard`` are whether each had to load its models."""

    def __init__(self, experience: Experience, planner: Planner, instance: Instance) -> None:
        self.experience, self.instance = experience, instance
        self.line = planner.lines[instance]
        self.heard: list[bool] = []
        experience.on_run.append(lambda use: self.heard.append(use.loaded))

    def begin(self, what: Work) -> Run:
        one = slot("x", what)
        self.line.join(one)
        run = self.experience.begins(one, self.line, self.instance, 0.0)
        self.line.begin("x", 0.0)
        self.line.leave("x")
        return run

    def ran(self, what: Work, seconds: float, *, worked: bool = True, **told: object) -> Run:
        run = self.begin(what)
        for name, value in told.items():
            setattr(run, name, value)
        self.experience.ended(run, seconds, worked=worked)
        return run


@pytest.fixture
def runs(experience: Experience, planner: Planner, one: Instance) -> Runs:
    return Runs(experience, planner, one)


# --- what it costs -----------------------------------------------------------------------------


def test_a_first_run_is_cold_and_the_next_one_tells_how_much_of_it(
    runs: Runs, planner: Planner, one: Instance
) -> None:
    runs.ran(A, COLD_S)
    runs.ran(A, RUN_S)
    assert planner.costs.run_s(one, A) == pytest.approx(RUN_S)
    assert planner.costs.load_s(one, ("a",)) == pytest.approx(LOAD_S)
    assert runs.heard == [True, False]


def test_the_time_at_its_loaders_is_that_of_loading(
    runs: Runs, planner: Planner, one: Instance
) -> None:
    """So that one run tells both."""
    runs.ran(A, COLD_S, load_s=LOAD_S)
    assert planner.costs.run_s(one, A) == pytest.approx(RUN_S)
    assert planner.costs.load_s(one, ("a",)) == pytest.approx(LOAD_S)


def test_a_measured_run_tells_more_than_its_loaders(
    runs: Runs, planner: Planner, one: Instance
) -> None:
    """Some nodes that name a model load it when it is used: much later."""
    teach(planner, A)
    runs.ran(B, RUN_S + 1)
    runs.ran(A, COLD_S, load_s=0.01)
    assert planner.costs.load_s(one, ("a",)) == pytest.approx(LOAD_S)
    assert planner.costs.run_s(one, A) == pytest.approx(RUN_S)


def test_what_came_from_the_cache_teaches_nothing(
    runs: Runs, planner: Planner, one: Instance
) -> None:
    runs.ran(A, 0.01, worked=False)
    assert planner.costs.run_s(one, A) is None
    assert runs.heard == []


def test_work_without_models_is_warm(runs: Runs, planner: Planner, one: Instance) -> None:
    runs.ran(work(), 3.0)
    assert planner.costs.run_s(one, work()) == pytest.approx(3.0)
    assert runs.heard == []


def test_seconds_at_its_loaders() -> None:
    """Each of them from when it was reached until the next node was, or until the end."""
    run = Run(
        work=work("a", "b", loaders=("1", "4")),
        instance=None,  # type: ignore[arg-type]
        began_at=100.0,
        missing=("a", "b"),
        ago=None,
    )
    for node, at in (("1", 101.0), ("2", 104.0), ("3", 110.0), ("4", 111.0)):
        run.reached(node, at)
    assert run.load_s == 3.0
    assert run.elapsed_s(113.0) == 13.0
    assert run.load_s == 5.0


def test_no_seconds_of_one_that_reached_no_loader() -> None:
    run = Run(work=A, instance=None, began_at=0.0, missing=(), ago=None)  # type: ignore[arg-type]
    run.reached("7", 1.0)
    assert (run.elapsed_s(2.0), run.load_s) == (2.0, None)


# --- whether its models were loaded ------------------------------------------------------------


def test_loaders_that_came_from_the_cache_loaded_nothing(
    runs: Runs, planner: Planner, one: Instance
) -> None:
    """Whatever was assumed, and however long it took."""
    teach(planner, A)
    runs.ran(A, COLD_S, cached=frozenset({"1", "5"}))
    assert runs.heard == [False]


def test_other_nodes_of_the_cache_say_nothing_of_the_models(runs: Runs, planner: Planner) -> None:
    teach(planner, A)
    runs.ran(A, COLD_S, cached=frozenset({"5"}))
    assert runs.heard == [True]


def test_one_that_was_believed_cold_and_was_as_quick_as_a_warm_one(
    runs: Runs, planner: Planner
) -> None:
    """Its models were there: more is kept than was assumed, here two prompts' models."""
    teach(planner, A, B)
    runs.ran(A, COLD_S)
    runs.ran(B, COLD_S)
    runs.ran(A, RUN_S + 0.9 * LOAD_SHARE * LOAD_S)
    assert runs.heard == [True, True, False]
    assert runs.line.loaded.memory.sets == 2
    assert runs.line.loaded.missing(("b",)) == ("b",)  # nobody has looked whether it is there
    runs.ran(B, RUN_S)
    assert runs.line.loaded.missing(("a",)) == ()


def test_one_that_was_believed_warm_and_took_a_load_longer(runs: Runs, planner: Planner) -> None:
    """Its models had gone: less is kept than was assumed."""
    teach(planner, A, B)
    runs.line.loaded.memory.sets = 2
    runs.ran(A, COLD_S)
    runs.ran(B, COLD_S)
    runs.ran(A, COLD_S)
    assert runs.heard == [True, True, True]
    assert runs.line.loaded.memory.sets == 1
    assert runs.line.loaded.missing(("b",)) == ("b",)


def test_a_time_between_warm_and_cold(runs: Runs, planner: Planner, one: Instance) -> None:
    """A load that was quicker than others counts as one from a third of theirs on."""
    teach(planner, A)
    runs.ran(A, RUN_S + 1.1 * LOAD_SHARE * LOAD_S)
    assert runs.heard == [True]
    runs.ran(A, RUN_S + 0.9 * LOAD_SHARE * LOAD_S)
    assert runs.heard == [True, False]


def test_a_borrowed_time_proves_nothing(planner: Planner, experience: Experience) -> None:
    """How long it runs here nobody knows yet: it may be slower elsewhere, and was cold here."""
    one, two = planner.lines
    for _ in range(3):
        planner.costs.learn(two, A, COLD_S, loaded=("a",), load_s=LOAD_S, now=0.0)
        planner.costs.learn(two, A, RUN_S, loaded=(), now=0.0)
    runs = Runs(experience, planner, one)
    runs.ran(A, RUN_S + 0.1)
    assert runs.heard == [True]


def test_others_of_which_nothing_is_known_are_alike(
    planner: Planner, experience: Experience
) -> None:
    """Instances of one owner are mostly started alike. Those that were seen are as they are."""
    teach(planner, A, B)
    one, two = planner.lines
    for instance in (one, two):
        planner.lines[instance].loaded.memory.sets = None
        planner.lines[instance].loaded.memory.total = None
    runs = Runs(experience, planner, one)
    for what, seconds in ((A, COLD_S), (B, COLD_S), (A, RUN_S)):
        runs.ran(what, seconds)
    assert [line.loaded.memory.sets for line in planner.lines.values()] == [2, 2]
    planner.lines[two].loaded.memory.sets = 5
    runs.ran(B, RUN_S)
    runs.ran(A, COLD_S)
    assert [line.loaded.memory.sets for line in planner.lines.values()] == [1, 5]


def test_a_correction_is_seen_by_whoever_has_planned(runs: Runs, planner: Planner) -> None:
    """What was worked out before is out of date at every instance."""
    teach(planner, A, B)
    has_loaded(planner, runs.instance, "a")
    runs.ran(B, COLD_S)
    before = [line.changes for line in planner.lines.values()]
    runs.ran(A, RUN_S)
    after = [line.changes for line in planner.lines.values()]
    assert all(later > earlier for later, earlier in zip(after, before, strict=True))


def test_one_whose_heavy_nodes_came_from_the_cache_teaches_nothing(
    runs: Runs, planner: Planner, one: Instance
) -> None:
    """Only its last nodes ran: a tenth of a second says nothing of the ten that such work takes."""
    heavy = replace(work(), heavy=frozenset(("3",)))
    runs.ran(heavy, 0.1, cached=frozenset(("1", "3")))
    assert planner.costs.run_s(one, heavy) is None
    runs.ran(heavy, 10.0, cached=frozenset(("1",)))
    assert planner.costs.run_s(one, heavy) == pytest.approx(10.0)


def test_a_card_of_another_size_is_not_taken_to_be_alike(
    experience: Experience, planner: Planner, one: Instance
) -> None:
    """What does not fit there says nothing of one with more memory."""
    large = next(instance for instance in planner.lines if instance is not one)
    for instance, total in ((one, 8), (large, 80)):
        planner.lines[instance].loaded.memory.total = total
        planner.lines[instance].loaded.memory.sets = None
    teach(planner, A, B)
    runs = Runs(experience, planner, one)
    for what, seconds in ((A, COLD_S), (B, COLD_S), (A, RUN_S)):
        runs.ran(what, seconds)
    assert planner.lines[one].loaded.memory.sets == 2
    assert planner.lines[large].loaded.memory.sets is None


# --- a process that has just begun ---------------------------------------------------------------


@pytest.fixture
def elsewhere(experience: Experience, planner: Planner) -> Runs:
    """… at the other instance, where work without models has taken RUN_S."""
    other = Runs(experience, planner, list(planner.lines)[1])
    for _ in range(ENOUGH_RUNS):
        other.ran(PLAIN, RUN_S)
    return other


@pytest.mark.usefixtures("elsewhere")
def test_one_slow_run_of_a_process_that_has_just_begun_does_not_make_it_the_slow_one(
    runs: Runs, planner: Planner, one: Instance
) -> None:
    runs.ran(PLAIN, 2 * RUN_S)
    assert planner.run_s(PLAIN, one) == RUN_S
    assert len(planner.best(slot("next", PLAIN), planner.lines)) == len(planner.lines)


@pytest.mark.usefixtures("elsewhere")
def test_one_that_stays_slow_is_known_to_be_so(runs: Runs, planner: Planner, one: Instance) -> None:
    for _ in range(FIRST_RUNS + ENOUGH_RUNS):
        assert planner.run_s(PLAIN, one) == pytest.approx(RUN_S)
        runs.ran(PLAIN, 2 * RUN_S)
    assert planner.run_s(PLAIN, one) == 2 * RUN_S


@pytest.mark.usefixtures("elsewhere")
def test_one_that_is_quicker_than_believed_teaches_that_with_its_first_run(
    runs: Runs, planner: Planner, one: Instance
) -> None:
    runs.ran(PLAIN, RUN_S / 2)
    assert planner.run_s(PLAIN, one) == RUN_S / 2


@pytest.mark.usefixtures("elsewhere")
def test_a_restart_makes_the_first_runs_count_anew(
    runs: Runs, planner: Planner, one: Instance
) -> None:
    """One that is restarted again and again, and runs once each time, is not slow for that."""
    for _ in range(2 * ENOUGH_RUNS):
        planner.restarted(one)
        runs.ran(PLAIN, 9 * RUN_S)
    assert planner.costs.samples(one, PLAIN) == 0
    assert planner.run_s(PLAIN, one) == pytest.approx(RUN_S)


def test_memory_that_was_freed_is_no_restart(
    elsewhere: Runs, runs: Runs, planner: Planner, one: Instance
) -> None:
    for _ in range(FIRST_RUNS + ENOUGH_RUNS):
        planner.forget_loaded(one)
        runs.ran(PLAIN, 2 * RUN_S)
    assert planner.run_s(PLAIN, one) == 2 * RUN_S
    assert planner.run_s(PLAIN, elsewhere.instance) == RUN_S
