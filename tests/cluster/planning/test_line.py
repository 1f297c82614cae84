"""cluster/planning/line.py: what runs and waits at one instance, and when it will end."""

from __future__ import annotations

import pytest
from plan_harness import LOAD_S, RUN_S, keys, line_of, slot, work

A, B = work("a"), work("b")


# --- what runs and waits -----------------------------------------------------------------------


def test_what_waits_is_in_the_order_of_its_numbers() -> None:
    """As ComfyUI takes it; of equals who came first."""
    line = line_of(
        slot("third", A, 3), slot("first", A, -2), slot("second", A, 2.5), slot("2nd too", A, 2.5)
    )
    assert keys(line) == ["first", "second", "2nd too", "third"]


def test_who_has_no_number_yet_stays_where_it_joined() -> None:
    """Its instance has not answered; those that have numbers are ordered around it."""
    line = line_of(slot("x", A, 5), slot("y", A), slot("z", A))
    line.join(slot("ahead", A), line.find("y"))
    line.numbered("z", 4)
    assert keys(line) == ["z", "ahead", "y", "x"]
    line.numbered("ahead", 4.5)
    line.numbered("y", 6)
    line.numbered("unknown", 1)
    assert keys(line) == ["z", "ahead", "x", "y"]


def test_it_may_be_known_by_another_key() -> None:
    """Its place becomes the prompt that was sent: where it is, it stays."""
    line = line_of(slot("place", A, 1), slot("2", A, 2))
    line.renamed("place", "prompt")
    line.renamed("unknown", "2")
    assert keys(line) == ["prompt", "2"]
    assert line.find("place") is None
    line.leave("prompt")
    assert keys(line) == ["2"]


def test_ends_are_those_of_what_is_ahead_with_its_loads() -> None:
    line = line_of(slot("1", A, 1), slot("2", A, 2), slot("3", B, 3), loaded=["a"])
    assert [line.end_s(one) for one in "123"] == [RUN_S, 2 * RUN_S, 3 * RUN_S + LOAD_S]
    assert line.end_s("unknown") is None
    assert line.after() == ((("b",),), 3 * RUN_S + LOAD_S)
    assert line.after(2) == ((("a",),), 2 * RUN_S)
    assert line.after(0) == ((("a",),), 0.0)


def test_one_that_runs_is_followed_by_the_others() -> None:
    """It ends when the instance is free: 0 s from then."""
    line = line_of(slot("1", A, 1), slot("2", B, 2))
    begun = line.begin("2", now=100.0)
    assert begun is line.running is line.find("2")
    assert (keys(line), len(line)) == (["1"], 2)
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
    assert (len(line), line.find("1")) == (1, None)


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
    line.join(slot("1", A))
    assert (keys(line), len(line)) == (["2", "1"], 2)


@pytest.mark.parametrize(
    "change", ["join", "numbered", "begin", "leave", "changed", "forget", "loaded"]
)
def test_every_change_is_counted(change: str) -> None:
    """Whoever has worked something out from the line sees that it is out of date."""
    line = line_of(slot("1", A, 1), slot("2", A))
    before = line.changes
    steps = {
        "join": lambda: line.join(slot("3", A)),
        "numbered": lambda: line.numbered("2", -7),
        "begin": lambda: line.begin("1", 0.0),
        "leave": lambda: line.leave("1"),
        "changed": line.changed,
        "forget": line.loaded.forget,
        "loaded": lambda: line.loaded.began(("b",)),
    }
    steps[change]()
    assert line.changes > before
