"""A flood of one warning is a few lines and a number; nothing else is held back."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable

from log_entries import entry

from comfy_proxy.logs.entry import Entry
from comfy_proxy.logs.suppressor import MAX_IN_WINDOW, MAX_KINDS, WINDOW_S, Suppressor

SITE = ("m", 1)


def messages(entries: Iterable[Entry]) -> list[str]:
    return [one.message for one in entries]


def passed(suppressor: Suppressor, entries: Iterable[Entry], now_s: float = 0.0) -> list[Entry]:
    return [one for given in entries for one in suppressor.pass_on(given, now_s)]


def test_a_flood_is_summarised() -> None:
    """The first few as they are, then how many more, with the last one's words."""
    suppressor = Suppressor()
    flood = [entry(f"w{number}", level="warn", site=SITE) for number in range(20)]
    written = passed(suppressor, flood)
    assert messages(written) == [f"w{number}" for number in range(MAX_IN_WINDOW)]
    assert suppressor.pending
    (summary,) = suppressor.due(WINDOW_S)
    assert summary.fields["repeated"] == 20 - MAX_IN_WINDOW
    assert summary.message.endswith("the last: w19")
    assert not suppressor.pending


def test_a_summary_comes_before_what_is_newer() -> None:
    """The next entry after the window brings it out."""
    suppressor = Suppressor()
    passed(suppressor, [entry("w", level="warn", site=SITE)] * (MAX_IN_WINDOW + 1))
    later = messages(suppressor.pass_on(entry("later"), WINDOW_S))
    assert later == ["1 more like this in 10 s, the last: w", "later"]


def test_what_is_not_alike_passes() -> None:
    """Other sites, instances and jobs, what has no site, and everything below a warning."""
    entries = [
        *(entry(level="info", site=SITE) for _ in range(50)),
        *(entry(level="warn", site=None) for _ in range(50)),
        *(entry(level="error", site=("m", line)) for line in range(50)),
        *(entry(level="warn", site=SITE, fields={"instance": str(n)}) for n in range(50)),
        *(entry(level="error", site=SITE, fields={"job_id": str(n)}) for n in range(50)),
        *(entry(level="error", site=SITE, fields={"prompt_id": str(n)}) for n in range(50)),
    ]
    assert len(passed(Suppressor(), entries)) == len(entries)


def test_a_second_bug_is_not_more_of_the_first() -> None:
    """Logged at one site, raised at two places: the stack trace of each is written."""
    bugs: list[Callable[[], object]] = [lambda: 1 / 0, lambda: {}["x"], lambda: 2 / 0]
    errors = [entry(level="error", site=SITE, exception=caught(bug)) for bug in bugs * 20]
    written = passed(Suppressor(), errors)
    assert len(written) == len(bugs) * MAX_IN_WINDOW


def test_fields_of_any_kind_are_compared() -> None:
    """What a library puts into its lines need not be hashable."""
    odd = [entry(level="warn", site=SITE, fields={"instance": {"a": [n % 2]}}) for n in range(20)]
    assert len(passed(Suppressor(), odd)) == 2 * MAX_IN_WINDOW


def test_no_exception_is_kept() -> None:
    """It holds its frames, and those a picture."""

    class Picture:
        pass

    def fail() -> None:
        picture = Picture()
        held.append(weakref.ref(picture))
        raise ValueError

    held: list[weakref.ref[Picture]] = []
    suppressor = Suppressor()
    passed(suppressor, [entry(level="error", site=SITE, exception=caught(fail))])
    gc.collect()
    assert held[0]() is None


def test_memory_is_bounded() -> None:
    """More kinds than can be remembered: the oldest are forgotten, none is held back."""
    suppressor = Suppressor()
    given = [entry(level="warn", site=("m", line)) for line in range(MAX_KINDS + 10)]
    assert len(passed(suppressor, given)) == len(given)
    assert len(suppressor._kinds) <= MAX_KINDS


def caught(fail: Callable[[], object]) -> Exception:
    try:
        fail()
    except Exception as error:
        return error
    raise AssertionError
