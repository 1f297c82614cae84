"""Many warnings of one kind are one line and a number. Pure; time is that of the entries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from comfy_proxy.logs.entry import Entry

WINDOW_S = 10.0
MAX_IN_WINDOW = 5
"""So many alike are written as they are; what follows in the window is counted."""
MAX_KINDS = 1000


@dataclass(slots=True)
class _Kind:
    since_s: float
    count: int
    last: Entry


class Floods:
    """Lets entries pass; warnings and errors from one site only so often.

    Alike are those of one instance and one job: what happened to a job can always be followed.
    """

    def __init__(self) -> None:
        self._kinds: dict[tuple[object, ...], _Kind] = {}

    @property
    def pending(self) -> bool:
        """Whether a summary is due some time."""
        return any(kind.count > MAX_IN_WINDOW for kind in self._kinds.values())

    def pass_on(self, entry: Entry) -> Iterator[Entry]:
        """What is to be written now: summaries that are due, and the entry unless it is one of too
        many."""
        yield from self.due(entry.time_s)
        if entry.importance > 1:
            yield entry
            return
        key = (entry.level, entry.site, entry.fields.get("instance"), entry.fields.get("job_id"))
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= MAX_KINDS:
                yield from self.due(float("inf"))
            self._kinds[key] = _Kind(entry.time_s, 1, entry)
            yield entry
            return
        kind.count += 1
        kind.last = entry
        if kind.count <= MAX_IN_WINDOW:
            yield entry

    def due(self, now_s: float) -> Iterator[Entry]:
        """Summaries of the windows that have ended."""
        for key, kind in tuple(self._kinds.items()):
            if now_s - kind.since_s < WINDOW_S:
                continue
            del self._kinds[key]
            more = kind.count - MAX_IN_WINDOW
            if more > 0:
                message = f"{more} more like this in {WINDOW_S:g} s, the last: {kind.last.message}"
                fields = {**kind.last.fields, "repeated": more}
                yield replace(kind.last, message=message, fields=fields, exception=None)
