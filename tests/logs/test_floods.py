"""A flood of one warning is a few lines and a number; nothing else is held back."""

from __future__ import annotations

from collections.abc import Iterable

from log_entries import entry

from comfy_proxy.logs.entry import Entry
from comfy_proxy.logs.floods import MAX_IN_WINDOW, MAX_KINDS, WINDOW_S, Floods


def messages(entries: Iterable[Entry]) -> list[str]:
    return [one.message for one in entries]


def test_a_flood_is_summarised() -> None:
    """The first few as they are, then how many more, with the last one's words."""
    floods = Floods()
    passed = [
        one
        for number in range(20)
        for one in floods.pass_on(entry(f"w{number}", level="warn", site=("m", 1)))
    ]
    assert messages(passed) == [f"w{number}" for number in range(MAX_IN_WINDOW)]
    assert floods.pending
    (summary,) = floods.due(WINDOW_S)
    assert summary.fields["repeated"] == 20 - MAX_IN_WINDOW
    assert summary.message.endswith("the last: w19")
    assert not floods.pending


def test_a_summary_comes_before_what_is_newer() -> None:
    """The next entry after the window brings it out."""
    floods = Floods()
    for _ in range(MAX_IN_WINDOW + 1):
        list(floods.pass_on(entry("w", level="warn")))
    later = messages(floods.pass_on(entry("later", time_s=WINDOW_S)))
    assert later == ["1 more like this in 10 s, the last: w", "later"]


def test_what_is_not_alike_passes() -> None:
    """Other sites, instances and jobs, and everything below a warning."""
    floods = Floods()
    entries = [
        *(entry(level="info") for _ in range(50)),
        *(entry(level="error", site=("m", line)) for line in range(50)),
        *(entry(level="warn", fields={"instance": str(number)}) for number in range(50)),
        *(entry(level="error", fields={"job_id": str(number)}) for number in range(50)),
    ]
    assert len([one for given in entries for one in floods.pass_on(given)]) == len(entries)


def test_memory_is_bounded() -> None:
    """More kinds than can be remembered: they are forgotten, never held back."""
    floods = Floods()
    given = [entry(level="warn", site=("m", line)) for line in range(MAX_KINDS + 10)]
    assert len([one for each in given for one in floods.pass_on(each)]) == len(given)
    assert len(floods._kinds) <= MAX_KINDS
