"""cluster/planning/line.py: what runs and waits at one instance, and where one more would go."""

from __future__ import annotations

import pytest
from plan_harness import LOAD_S, RUN_S, keys, line_of, slot, work

from comfy_proxy.cluster.planning.line import PATIENCE_LOADS

A, B, C = work("a"), work("b"), work("c")


# --- what runs and waits -----------------------------------------------------------------------


def test_what_waits_is_in_the_order_of_its_numbers() -> None:
    """As ComfyUI takes it; of equals, and of those without a number yet, who came first."""
    line = line_of(
        slot("no number", A, since=1),
        slot("third", A, 3),
        slot("no number yet", A, since=0),
        slot("first", A, -2),
        slot("second", A, 2.5),
        slot("second too", A, 2.5, since=1),
    )
    assert keys(line) == [
        *("first", "second", "second too", "third", "no number yet", "no number"),
    ]


def test_a_number_may_be_told_later() -> None:
    line = line_of(slot("x", A), slot("y", A, 5))
    line.numbered("x", 4)
    line.numbered("unknown", 1)
    assert keys(line) == ["x", "y"]


def test_ends_are_those_of_what_is_ahead_with_its_loads() -> None:
    line = line_of(slot("1", A, 1), slot("2", A, 2), slot("3", B, 3), loaded=["a"])
    assert [line.end_s(one) for one in "123"] == [RUN_S, 2 * RUN_S, 3 * RUN_S + LOAD_S]
    assert line.end_s("unknown") is None
    assert line.waiting_s() == 3 * RUN_S + LOAD_S
    assert line.held_at_end() == (("b",),)


def test_one_that_runs_is_followed_by_the_others() -> None:
    """It ends when the instance is free: 0 s from then."""
    line = line_of(slot("1", A, 1), slot("2", B, 2))
    begun = line.begin("2", now=100.0)
    assert begun is line.running is line.find("2")
    assert (keys(line), len(line), "2" in line) == (["1"], 2, True)
    assert line.is_running("2")
    assert not line.is_running("1")
    assert (line.end_s("2"), line.end_s("1")) == (0.0, LOAD_S + RUN_S)
    assert line.free_in_s(100.0) == LOAD_S + RUN_S
    assert line.free_in_s(104.0) == LOAD_S + RUN_S - 4


def test_one_that_is_late_runs_on_for_as_long_as_it_is_late() -> None:
    line = line_of(slot("1", A, 1), loaded=["a"])
    line.begin("1", now=0.0)
    assert line.free_in_s(RUN_S) == 0
    assert line.free_in_s(RUN_S + 3) == 3


def test_who_begins_ends_who_ran() -> None:
    """ComfyUI runs one at a time, and the end of the one before may not have been heard."""
    line = line_of(slot("1", A, 1), slot("2", A, 2))
    line.begin("1", now=0.0)
    line.begin("2", now=1.0)
    assert (len(line), "1" in line) == (1, False)


def test_a_beginning_is_taken_once() -> None:
    line = line_of(slot("1", A, 1))
    assert line.begin("1", now=0.0) is not None
    assert line.begin("1", now=5.0) is None
    assert line.begin("unknown", now=5.0) is None
    assert line.began_at == 0.0


def test_who_leaves_is_gone_wherever_it_was() -> None:
    line = line_of(slot("1", A, 1), slot("2", A, 2), slot("3", A, 3))
    line.begin("1", now=0.0)
    for one in ("2", "1", "unknown"):
        line.leave(one)
    assert (keys(line), line.running, line.free_in_s(9.0)) == (["3"], None, 0.0)


def test_one_that_joins_again_takes_its_own_place() -> None:
    """A prompt that is posted to the same instance once more is there once."""
    line = line_of(slot("1", A, 1), slot("2", A, 2))
    line.join(slot("1", A, 3))
    assert (keys(line), len(line)) == (["2", "1"], 2)


@pytest.mark.parametrize("change", ["join", "numbered", "begin", "leave", "changed"])
def test_every_change_is_counted(change: str) -> None:
    """Whoever has worked something out from the line sees that it is out of date."""
    line = line_of(slot("1", A, 1))
    before = line.changes
    steps = {
        "join": lambda: line.join(slot("2", A, 2)),
        "numbered": lambda: line.numbered("1", 7),
        "begin": lambda: line.begin("1", 0.0),
        "leave": lambda: line.leave("1"),
        "changed": line.changed,
    }
    steps[change]()
    assert line.changes > before


# --- where one more would go -------------------------------------------------------------------


def test_one_whose_models_are_loaded_at_the_end_goes_to_the_end() -> None:
    line = line_of(slot("1", B, 1), slot("2", A, 2), loaded=["b"])
    option = line.option(slot("new", A), 0.0)
    assert (option.before, option.load_s, option.run_s) == (None, 0.0, RUN_S)
    assert option.behind_s == 2 * RUN_S + LOAD_S


def test_one_goes_behind_the_last_that_shares_its_models() -> None:
    """And before whoever would have them loaded again."""
    line = line_of(slot("1", A, 1), slot("2", A, 2), slot("3", B, 3), slot("4", B, 4))
    option = line.option(slot("new", A), 0.0)
    assert option.before is line.find("3")
    assert (option.behind_s, option.load_s) == (LOAD_S + 2 * RUN_S, 0.0)


def test_one_goes_first_if_its_models_are_loaded_now() -> None:
    line = line_of(slot("1", B, 1), loaded=["a"])
    option = line.option(slot("new", A), 0.0)
    assert (option.before, option.behind_s, option.load_s) == (line.find("1"), 0.0, 0.0)


def test_one_goes_behind_the_one_that_runs_with_its_models() -> None:
    line = line_of(slot("0", A, 0), slot("1", B, 1))
    line.begin("0", now=0.0)
    assert line.option(slot("new", A), 0.0).before is line.find("1")


def test_one_whose_models_nobody_has_goes_to_the_end() -> None:
    line = line_of(slot("1", A, 1), slot("2", B, 2))
    option = line.option(slot("new", C), 0.0)
    assert (option.before, option.load_s) == (None, LOAD_S)


def test_one_without_models_goes_to_the_end() -> None:
    line = line_of(slot("1", A, 1), slot("2", B, 2))
    assert line.option(slot("new", work()), 0.0).before is None


def test_one_with_a_place_of_its_own_goes_there() -> None:
    """By `front` or `number`: where that is, its instance decides."""
    line = line_of(slot("1", A, 1), slot("2", B, 2))
    assert line.option(slot("new", A, fixed=True), 0.0).before is None


def test_nobody_with_a_place_of_its_own_is_overtaken() -> None:
    line = line_of(slot("1", A, 1), slot("2", B, 2, fixed=True), slot("3", B, 3))
    assert line.option(slot("new", A), 0.0).before is None


def test_a_clients_prompts_of_one_kind_keep_their_order() -> None:
    """Whatever their models are: others, and its own of another kind, are overtaken."""
    same = work("b", kind="kind")
    new = slot("new", work("a", kind="kind"), client="me")
    line = line_of(slot("1", A, 1), slot("2", same, 2, client="me"))
    assert line.option(new, 0.0).before is None
    line = line_of(slot("1", A, 1), slot("2", same, 2, client="other"))
    assert line.option(new, 0.0).before is line.find("2")
    line = line_of(slot("1", A, 1), slot("2", B, 2, client="me"))
    assert line.option(new, 0.0).before is line.find("2")


def test_one_that_names_a_result_comes_after_what_makes_it() -> None:
    maker = work("b", writes=["portrait"])
    line = line_of(slot("1", A, 1), slot("2", maker, 2))
    assert line.option(slot("new", work("a", reads=["portrait_00001_.png"])), 0.0).before is None
    assert line.option(slot("new", work("a", reads=["landscape.png"])), 0.0).before is not None


# --- patience ----------------------------------------------------------------------------------


def test_patience_0_never_overtakes() -> None:
    line = line_of(slot("1", A, 1), slot("2", B, 2), patience_s=0)
    option = line.option(slot("new", A), 0.0)
    assert (option.before, option.load_s) == (None, LOAD_S)


def test_nobody_is_overtaken_beyond_the_patience() -> None:
    """It counts from when it came until it would begin: 1 s for the one ahead, 1 s for the new
    one, and what it has waited already."""
    line = line_of(slot("1", A, 1), slot("2", B, 2), loaded=["a"], patience_s=30.0)
    assert line.option(slot("new", A), now=28.0).before is not None
    assert line.option(slot("new", A), now=28.1).before is None


def test_what_runs_counts_against_the_patience() -> None:
    line = line_of(slot("0", A, 0, run_s=25.0), slot("2", B, 2), loaded=["a"], patience_s=30.0)
    line.begin("0", now=0.0)
    assert line.option(slot("new", A, run_s=5.0), now=0.0).before is not None
    assert line.option(slot("new", A, run_s=5.1), now=0.0).before is None


def test_the_least_patient_of_those_that_would_be_overtaken_decides() -> None:
    """The second one came long ago, by a number that it got late."""
    line = line_of(
        slot("1", A, 1), slot("2", B, 2, since=30.0), slot("3", B, 3, since=0.0), patience_s=30.0
    )
    assert line.option(slot("new", A), now=30.0).before is None


def test_the_learned_patience_is_a_few_loads_and_what_shares_them() -> None:
    line = line_of(slot("1", A, 1), slot("2", B, 2), slot("3", B, 3), loaded=["a"])
    bound = PATIENCE_LOADS * LOAD_S + 2 * RUN_S
    # 2 would begin after 1 and the new one
    latest = bound - 2 * RUN_S
    # 3 came later: that it has waited less is why 2 decides
    slots = line.find("3")
    assert slots is not None
    slots.since = 1.5
    assert line.option(slot("new", A), now=latest - 12).before is line.find("2")
    assert line.option(slot("new", A), now=latest + 0.1).before is None


# --- numbers -----------------------------------------------------------------------------------


def test_a_number_between_its_neighbours() -> None:
    line = line_of(slot("1", A, 1), slot("2", B, 2))
    second = line.find("2")
    assert second is not None
    number = line.number_before(second)
    assert number is not None
    assert 1 < number < 2


def test_one_after_the_other_goes_behind_those_placed_before() -> None:
    """A hundred find a place between two, each behind the last."""
    line = line_of(slot("1", A, 1), slot("2", B, 2))
    for count in range(100):
        option = line.option(slot("new", A, since=1.0), now=-1000.0)
        assert option.before is line.find("2")
        number = line.number_before(option.before)
        line.join(slot(count, A, number))
    assert keys(line) == ["1", *range(100), "2"]


def test_a_number_before_the_first_is_above_that_of_what_runs() -> None:
    """By as little as one if nothing runs: behind whoever comes to the front later."""
    line = line_of(slot("0", A, 7), slot("1", B, 7.5))
    first = line.find("1")
    assert first is not None
    line.begin("0", now=0.0)
    assert 7 < (line.number_before(first) or 0) < 7.5
    line.leave("0")
    assert 6.5 < (line.number_before(first) or 0) < 7.5


def test_there_is_no_number_between_equal_ones() -> None:
    line = line_of(slot("1", A, 1), slot("2", B, 1, since=1.0))
    second = line.find("2")
    assert second is not None
    assert line.number_before(second) is None


def test_there_is_no_number_before_one_that_has_none_yet() -> None:
    """Nor between two that have none: their instance has not answered."""
    line = line_of(slot("1", A, 1), slot("2", B), slot("3", C))
    for one in ("2", "3"):
        other = line.find(one)
        assert other is not None
        assert line.number_before(other) is None


def test_numbers_come_to_an_end() -> None:
    """Then None, and never one that is equal to a neighbour's: who has it goes to the end."""
    line = line_of(slot("low", A, 1_000_000), slot("before", B, 1_000_001))
    numbers = []
    while len(numbers) < 10_000:
        before = line.find(numbers[-1] if numbers else "before")
        assert before is not None
        number = line.number_before(before)
        if number is None:
            break
        assert 1_000_000 < number < before.number
        numbers.append(number)
        line.join(slot(number, A, number))
    assert 2 <= len(numbers) < 10_000
    assert numbers == sorted(numbers, reverse=True)


# --- beyond ------------------------------------------------------------------------------------


def test_beyond_goes_on_where_the_line_ends() -> None:
    """With what will be loaded then, at the same costs; what joins it leaves the line alone."""
    line = line_of(slot("1", B, 1), slot("2", A, 2), sets=1, patience_s=0)
    beyond = line.beyond()
    assert len(beyond) == 0
    assert beyond.option(slot("new", A), 0.0).load_s == 0
    assert beyond.option(slot("new", B), 0.0).load_s == LOAD_S
    beyond.join(slot("3", B, 3))
    beyond.begin("3", 0.0)
    assert (keys(line), line.held_at_end()) == (["1", "2"], (("a",),))
    beyond.offset_s = 4.0
    beyond.leave("3")
    assert beyond.free_in_s(100.0) == 4.0
