"""Entries as lines: many warnings of one kind become one, secrets are taken out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from comfy_proxy.logs.entry import Entry
from comfy_proxy.logs.lines import Finished, Redaction, finished, line_of
from comfy_proxy.logs.suppressor import Suppressor

Item = Entry | Sequence[Finished]
"""An entry, or lines that are made already."""


class LineMaker:
    """``failed`` counts the lines that could not be made; those are left out. ``colours`` as of
    :func:`~comfy_proxy.logs.lines.finished`."""

    def __init__(self, redaction: Redaction, *, colours: bool | None) -> None:
        self.colours = colours
        self.failed = 0
        self._redaction = redaction
        self._suppressor = Suppressor()

    @property
    def pending(self) -> bool:
        """True if a line is to be written later without any further entry."""
        return self._suppressor.pending

    def lines(self, batch: Iterable[Item], now_s: float) -> list[Finished]:
        """What is to be written now; ``now_s`` is monotonic, infinite at the end."""
        lines: list[Finished] = []
        for item in batch:
            if isinstance(item, Entry):
                self._make(self._suppressor.pass_on(item, now_s), lines)
            else:
                lines += item
        self._make(self._suppressor.due(now_s), lines)
        return lines

    def _make(self, entries: Iterable[Entry], lines: list[Finished]) -> None:
        for entry in entries:
            try:
                lines.append(finished(line_of(entry, self._redaction), colours=self.colours))
            except Exception:
                self.failed += 1


def count(item: Item) -> int:
    """How many lines it is."""
    return 1 if isinstance(item, Entry) else len(item)
