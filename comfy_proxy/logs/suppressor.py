"""Many warnings of one kind become one line with their number. Pure; the time is an argument.

Of one kind are warnings and errors from one line of code about the same instance and the same job
or prompt, with exceptions raised at one place. So what happened to a job can always be followed,
and a second bug is not counted as more of the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from comfy_proxy.logs.entry import Entry

WINDOW_S = 10.0
"""Seconds from the first entry of a kind, at whose end the summary is written."""
MAX_IN_WINDOW = 5
"""Entries of a kind in one window that are written as they are; further ones are only counted."""
MAX_KINDS = 1000
"""Kinds remembered at once; beyond, the window of the oldest one ends early."""

_Key = tuple[object, ...]


@dataclass(slots=True)
class _Kind:
    """One window; ``since_s`` is when it began (monotonic).

    ``last`` is without its exception, which would keep alive all objects of its frames.
    """

    since_s: float
    count: int
    last: Entry


class Suppressor:
    """Lets entries pass, but of one kind of warnings or errors only MAX_IN_WINDOW each window."""

    def __init__(self) -> None:
        self._kinds: dict[_Key, _Kind] = {}  # in the order in which their windows began
        self._suppressing = 0

    @property
    def pending(self) -> bool:
        """True if a summary is to be written when its window ends."""
        return self._suppressing > 0

    def pass_on(self, entry: Entry, now_s: float) -> Iterator[Entry]:
        """The entries to write now: summaries that are due, and ``entry`` unless it is suppressed.

        ``now_s`` is monotonic, in seconds: a jump of the wall clock must not end windows.
        """
        yield from self.due(now_s)
        if entry.site is None or entry.importance > 1:
            yield entry
            return
        key = _key(entry)
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= MAX_KINDS:
                yield from self._end_of_oldest()
            kind = self._kinds[key] = _Kind(now_s, 0, entry)
        kind.count += 1
        kind.last = replace(entry, exception=None)
        if kind.count <= MAX_IN_WINDOW:
            yield entry
        elif kind.count == MAX_IN_WINDOW + 1:
            self._suppressing += 1

    def due(self, now_s: float) -> Iterator[Entry]:
        """Summaries of the windows that have ended."""
        while self._kinds:
            if now_s - next(iter(self._kinds.values())).since_s < WINDOW_S:
                return
            yield from self._end_of_oldest()

    def _end_of_oldest(self) -> Iterator[Entry]:
        kind = self._kinds.pop(next(iter(self._kinds)))
        more = kind.count - MAX_IN_WINDOW
        if more > 0:
            self._suppressing -= 1
            message = f"{more} more like this in {WINDOW_S:g} s, the last: {kind.last.message}"
            yield replace(kind.last, message=message, fields={**kind.last.fields, "repeated": more})


def _key(entry: Entry) -> _Key:
    """What makes entries alike; fields as texts, because a library's need not be hashable."""
    about = [str(entry.fields.get(name)) for name in ("instance", "job_id", "prompt_id")]
    return (entry.level, entry.site, *about, _raised_at(entry.exception))


def _raised_at(error: BaseException | None) -> _Key:
    trace = None if error is None else error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = (trace.tb_frame.f_code, trace.tb_lineno) if trace is not None else ()
    return (type(error), *place)
