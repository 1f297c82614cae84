"""cluster/planning/joining.py: where in a line one more prompt goes, and by which number."""

from __future__ import annotations

from plan_harness import LOAD_S, RUN_S, joins, keys, line_of, slot, work

from comfy_proxy.cluster.planning.joining import (
    PATIENCE_LOADS,
    beyond,
    number_of,
    option,
    place_matters,
)
from comfy_proxy.cluster.planning.line import Line
from comfy_proxy.cluster.planning.slot import Slot

A, B, C = work("a"), work("b"), work("c")


def placed(line: Line, new: Slot) -> float | None:
    """It joins where it is best placed; the number by which it gets there."""
    line.join(new, option(line, new).before)
    return number_of(line, new.key)


# --- where one more would go -------------------------------------------------------------------


def test_one_whose_models_are_loaded_at_the_end_goes_to_the_end() -> None:
    line = line_of(slot("1", B, 1), slot("2", A, 2), loaded=["b"])
    found = option(line, slot("new", A))
    assert (found.before, found.load_s, found.run_s) == (None, 0.0, RUN_S)
    assert found.behind_s == 2 * RUN_S + LOAD_S


def test_one_goes_behind_the_last_that_shares_its_models() -> None:
    """And before whoever would have them loaded again."""
    line = line_of(slot("1", A, 1), slot("2", A, 2), slot("3", B, 3), slot("4", B, 4))
    found = option(line, slot("new", A))
    assert found.before is line.find("3")
    assert (found.behind_s, found.load_s) == (LOAD_S + 2 * RUN_S, 0.0)


def test_nobody_goes_before_the_first_of_an_idle_instance() -> None:
    """That one begins at once, before any number could reach the instance."""
    line = line_of(slot("1", B, 1), slot("2", B, 2), loaded=["a"])
    found = option(line, slot("new", A))
    assert (found.before, found.load_s) == (None, LOAD_S)


def test_one_goes_first_if_its_models_are_loaded_beside_those_of_what_runs() -> None:
    line = line_of(slot("0", C, 0), slot("1", B, 1), loaded=["a"], sets=2)
    line.begin("0", now=0.0)
    found = option(line, slot("new", A))
    assert (found.before, found.behind_s, found.load_s) == (line.find("1"), 0.0, 0.0)


def test_one_goes_behind_the_one_that_runs_with_its_models() -> None:
    line = line_of(slot("0", A, 0), slot("1", B, 1))
    line.begin("0", now=0.0)
    assert option(line, slot("new", A)).before is line.find("1")


def test_one_whose_models_nobody_has_goes_to_the_end() -> None:
    line = line_of(slot("1", A, 1), slot("2", B, 2))
    found = option(line, slot("new", C))
    assert (found.before, found.load_s) == (None, LOAD_S)


def test_one_without_models_goes_to_the_end() -> None:
    line = line_of(slot("1", A, 1), slot("2", B, 2))
    assert option(line, slot("new", work())).before is None


def test_one_with_a_place_of_its_own_goes_there() -> None:
    """By `front` or `number`: where that is, its instance decides."""
    line = line_of(slot("1", A, 1), slot("2", B, 2))
    assert option(line, slot("new", A, fixed=True)).before is None


def test_nobody_with_a_place_of_its_own_is_overtaken() -> None:
    line = line_of(slot("1", A, 1), slot("2", B, 2, fixed=True), slot("3", B, 3))
    assert option(line, slot("new", A)).before is None


def test_a_clients_prompts_of_one_kind_keep_their_order() -> None:
    """Whatever their models are: others, and its own of another kind, are overtaken."""
    same = work("b", kind="kind")
    new = slot("new", work("a", kind="kind"), client="me")
    line = line_of(slot("1", A, 1), slot("2", same, 2, client="me"))
    assert option(line, new).before is None
    line = line_of(slot("1", A, 1), slot("2", same, 2, client="other"))
    assert option(line, new).before is line.find("2")
    line = line_of(slot("1", A, 1), slot("2", B, 2, client="me"))
    assert option(line, new).before is line.find("2")


def test_one_that_names_a_result_comes_after_what_makes_it() -> None:
    maker = work("b", writes=["portrait"])
    line = line_of(slot("1", A, 1), slot("2", maker, 2))
    assert option(line, slot("new", work("a", reads=["portrait_00001_.png"]))).before is None
    assert option(line, slot("new", work("a", reads=["landscape.png"]))).before is not None


# --- patience ----------------------------------------------------------------------------------


def test_patience_0_never_overtakes() -> None:
    line = line_of(slot("1", A, 1), slot("2", B, 2), patience_s=0)
    found = option(line, slot("new", A))
    assert (found.before, found.load_s) == (None, LOAD_S)


def test_nobody_is_overtaken_beyond_the_patience() -> None:
    """What counts is how long those run that were put ahead of it, wherever it waits."""
    line = line_of(slot("1", A, 1), slot("2", B, 2), slot("3", B, 3), patience_s=10.0)
    for number in range(9):
        placed(line, slot(f"new {number}", A))
    assert option(line, slot("new", A, run_s=1.0)).before is line.find("2")
    assert option(line, slot("new", A, run_s=1.1)).before is None
    placed(line, slot("last", A))
    assert option(line, slot("new", A)).before is None
    assert keys(line)[-3:] == ["last", "2", "3"]


def test_how_long_the_wait_is_counts_nothing_against_the_patience() -> None:
    """In a long queue of two models by turns, each of its prompts would cost a load."""
    line = line_of(slot("0", A, 0, run_s=500.0), loaded=["a"])
    line.begin("0", now=0.0)
    for number in range(1, 11):
        placed(line, slot(f"a{number}", A))
        placed(line, slot(f"b{number}", B))
    assert keys(line) == [f"{model}{number}" for model in "ab" for number in range(1, 11)]


def test_the_least_patient_of_those_that_would_be_overtaken_decides() -> None:
    """The second one was overtaken where it came from."""
    line = line_of(
        slot("1", A, 1), slot("2", B, 2), slot("3", B, 3, overtaken_s=29.5), patience_s=30.0
    )
    assert option(line, slot("new", A)).before is None


def test_the_learned_patience_is_a_few_loads_and_what_shares_them() -> None:
    line = line_of(slot("1", A, 1), slot("2", B, 2), slot("3", B, 3), loaded=["a"])
    bound = PATIENCE_LOADS * LOAD_S + 2 * RUN_S
    second = line.find("2")
    assert second is not None
    second.overtaken_s = bound - RUN_S
    assert option(line, slot("new", A)).before is second
    second.overtaken_s = bound - RUN_S + 0.1
    assert option(line, slot("new", A)).before is None


# --- numbers -----------------------------------------------------------------------------------


def test_a_number_between_its_neighbours() -> None:
    line = line_of(slot("1", A, 1), slot("2", B, 2))
    number = placed(line, slot("new", A))
    assert number is not None
    assert 1 < number < 2
    assert keys(line) == ["1", "new", "2"]


def test_the_end_needs_no_number() -> None:
    """ComfyUI gives it the next one. So for whoever waits for others' numbers only."""
    line = line_of(slot("1", A, 1), slot("2", B))
    assert placed(line, slot("new", C)) is None
    assert placed(line, slot("newer", A)) is None  # before one that has no number either
    assert keys(line) == ["1", "newer", "2", "new"]
    assert number_of(line, "unknown") is None


def test_one_after_the_other_goes_behind_those_placed_before() -> None:
    """A hundred find a place between two, each behind the last."""
    line = line_of(slot("1", A, 1), slot("2", B, 2), patience_s=1000)
    for count in range(100):
        number = placed(line, slot(count, A))
        assert number is not None
        line.numbered(count, number)
    assert keys(line) == ["1", *range(100), "2"]


def test_a_number_before_the_first_is_above_that_of_what_runs() -> None:
    """By as little as one of it: behind whoever comes to the front later."""
    line = line_of(slot("0", A, 7), slot("1", B, 7.5))
    line.begin("0", now=0.0)
    assert 7 < (placed(line, slot("new", A)) or 0) < 7.5
    line = line_of(slot("0", A, 70), slot("1", B, 7.5), slot("2", A, 90))
    line.begin("0", now=0.0)
    line.join(slot("new", A), line.find("1"))
    assert 6.5 < (number_of(line, "new") or 0) < 7.5


def test_numbers_that_are_not_known_yet_are_passed_over() -> None:
    """Of whoever was sent and is not answered for: its own lies between the same two."""
    line = line_of(slot("1", A, 1), slot("2", B, 2))
    placed(line, slot("new", A))
    number = placed(line, slot("newer", A))
    assert keys(line) == ["1", "new", "newer", "2"]
    assert number is not None
    assert 1 < number < 2


def test_there_is_no_number_between_equal_ones() -> None:
    line = line_of(slot("1", A, 1), slot("2", B, 1))
    line.join(slot("new", A), line.find("2"))
    number = number_of(line, "new")
    assert number is None or number < 1


def test_numbers_come_to_an_end() -> None:
    """Then None, and never one that is equal to a neighbour's: who has it goes to the end."""
    line = line_of(slot("low", A, 1_000_000), slot("before", B, 1_000_001))
    numbers: list[float] = []
    while len(numbers) < 10_000:
        line.join(slot(len(numbers), A), line.find(len(numbers) - 1 if numbers else "before"))
        number = number_of(line, len(numbers))
        if number is None:
            break
        assert 1_000_000 < number < (numbers[-1] if numbers else 1_000_001)
        line.numbered(len(numbers), number)
        numbers.append(number)
    assert 2 <= len(numbers) < 10_000


def test_only_what_may_be_better_placed_waits_for_numbers() -> None:
    """Not work that is unknown or has no models, nor at an instance with nobody, nor if ordering
    is turned off or loading costs nothing."""
    line = line_of(slot("1", B, 1))
    assert place_matters(line, A)
    assert not place_matters(line, None)
    assert not place_matters(line, work())
    assert not place_matters(line_of(), A)
    assert not place_matters(line_of(slot("1", B, 1), patience_s=0), A)
    assert not place_matters(line_of(slot("1", B, 1), load_s=0.0), A)


# --- beyond ------------------------------------------------------------------------------------


def test_beyond_goes_on_where_the_line_ends() -> None:
    """With what will be loaded then, at the same costs; what joins it leaves the line alone."""
    line = line_of(slot("1", B, 1), slot("2", A, 2), patience_s=0)
    other = beyond(line, 4.0)
    assert (len(other), other.free_in_s(100.0)) == (0, 4.0)
    assert option(other, slot("new", A)).load_s == 0
    assert option(other, slot("new", B)).load_s == LOAD_S
    before = line.changes
    joins(other, slot("3", B, 3))
    other.begin("3", 0.0)
    assert (keys(line), line.changes) == (["1", "2"], before)
    assert line.after() == ((("a",),), 2 * RUN_S + 2 * LOAD_S)


def test_the_first_that_is_only_tried_out_may_be_overtaken() -> None:
    """It was not sent yet: nothing begins it."""
    other = beyond(line_of(slot("1", A, 1)), 0.0)
    joins(other, slot("2", B, 2))
    assert option(other, slot("new", A)).before is other.find("2")


# --- places that clients and other instances have chosen -----------------------------------------


def test_one_that_its_client_put_behind_everything_is_in_nobodys_way() -> None:
    """ComfyUI puts whoever comes without a number before it; so do we, and the order goes on."""
    line = line_of(slot("1", A, 1), slot("2", B, 2), slot("parked", C, 1e300, fixed=True))
    line.counter = 2
    found = option(line, slot("new", A))
    assert (found.before, found.load_s) == (line.find("2"), 0.0)
    found = option(line, slot("new", B))
    assert (found.before, found.load_s) == (line.find("parked"), 0.0)
    assert placed(line, slot("new", B)) is None  # the instance's own number does


def test_a_number_of_another_instance_is_no_neighbour() -> None:
    """A moved prompt keeps its own, of another counter: next to that nobody gets a place."""
    line = line_of(slot("1", A, 1), slot("moved", B, 100_000))
    line.counter = 1
    assert placed(line, slot("new", A)) is None
