"""What jobs take beside the execution by ComfyUI."""

from __future__ import annotations

from comfy_proxy.jobs.runs.overheads import REMEMBERED, Overheads


def test_nothing_before_the_first_job() -> None:
    """No guess is made up."""
    overheads = Overheads()
    assert (overheads.before_s("a"), overheads.after_s("a")) == (0.0, 0.0)


def test_one_large_picture_changes_nothing() -> None:
    """The median counts, not the mean."""
    overheads = Overheads()
    for seconds in (0.1, 30.0, 0.3, 0.2, 0.2):
        overheads.record("a", before_s=seconds, after_s=2 * seconds)
    assert (overheads.before_s("a"), overheads.after_s("a")) == (0.2, 0.4)


def test_types_are_kept_apart() -> None:
    """Of a type that was never measured the others tell."""
    overheads = Overheads()
    overheads.record("a", before_s=1.0, after_s=1.0)
    overheads.record("b", before_s=3.0, after_s=3.0)
    assert [overheads.after_s(name) for name in ("a", "b", "new")] == [1.0, 3.0, 2.0]


def test_only_the_last_count() -> None:
    """What was slow once is forgotten."""
    overheads = Overheads()
    for seconds in [9.0] * REMEMBERED + [1.0] * REMEMBERED:
        overheads.record("a", before_s=seconds, after_s=seconds)
    assert overheads.after_s("a") == 1.0


def test_never_less_than_nothing() -> None:
    """An end that was heard before the answer to the POST is no gain of time."""
    overheads = Overheads()
    overheads.record("a", before_s=-1.0, after_s=0.5)
    assert overheads.before_s("a") == 0.0
