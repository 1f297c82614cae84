"""Many warnings of one kind are one line and a number. Pure; the time is an argument (monotonic).

Alike are warnings and errors from one site about one instance and one job or prompt, with
exceptions raised at one place: what happened to a job can always be followed, and a second bug is
not taken for more of the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from comfy_proxy.logs.entry import Entry

WINDOW_S = 10.0
MAX_IN_WINDOW = 5
"""So many alike are written as they are; what follows in the window is counted."""
MAX_KINDS = 1000

_Key = tuple[object, ...]


@dataclass(slots=True)
class _Kind:
    """``last`` is without its exception, which would keep alive all that its frames hold."""

    since_s: float
    count: int
    last: Entry


class Suppressor:
    """Lets entries pass; warnings and errors that are alike only so often."""

    def __init__(self) -> None:
        self._kinds: dict[_Key, _Kind] = {}  # in the order in which their windows began
        self._suppressing = 0

    @property
    def pending(self) -> bool:
        """Whether a summary is due some time."""
        return self._suppressing > 0

    def pass_on(self, entry: Entry, now_s: float) -> Iterator[Entry]:
        """What is to be written now: summaries that are due, and the entry unless it is one of too
        many."""
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
    """Of texts: what a library puts into its fields need not be hashable."""
    about = [str(entry.fields.get(name)) for name in ("instance", "job_id", "prompt_id")]
    return (entry.level, entry.site, *about, _raised_at(entry.exception))


def _raised_at(error: BaseException | None) -> _Key:
    trace = None if error is None else error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = (trace.tb_frame.f_code, trace.tb_lineno) if trace is not None else ()
    return (type(error), *place)
