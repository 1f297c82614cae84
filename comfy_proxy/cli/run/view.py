"""What is said while items run: lines in a pipe or a file (``bars.py`` has the terminal's)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TextIO

from comfy_proxy.cli.run.items import Item, shown
from comfy_proxy.cli.run.outputs import Saved
from comfy_proxy.client.models import Status


@dataclass(kw_only=True)
class Report:
    """How many items there are, and what has become of those that are over. ``failures`` are the
    labels with a sentence each."""

    total: int
    done: int = 0
    skipped: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Items that are not over."""
        return self.total - self.done - self.skipped - len(self.failures)

    def __str__(self) -> str:
        parts = [f"{self.done} done"]
        parts += [f"{self.skipped} done before"] if self.skipped else []
        parts += [f"{len(self.failures)} failed"] if self.failures else []
        parts += [f"{self.left} not done"] if self.left else []
        return f"{', '.join(parts)}, of {self.total}"


class View(Protocol):
    """Is told of each item; a context manager around all of them."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: object, error: object, traceback: TracebackType | None) -> None: ...

    def began(self, item: Item) -> None: ...

    def progressed(self, item: Item, status: Status) -> None: ...

    def skipped(self, item: Item, paths: Sequence[Path]) -> None: ...

    def done(self, item: Item, saved: Saved, status: Status) -> None: ...

    def failed(self, item: Item, why: str) -> None: ...

    def over(self, item: Item) -> None: ...


class Lines:
    """A line for each item that is over, in ``out``; failures on standard error."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: TracebackType | None) -> None:
        pass

    def began(self, item: Item) -> None:
        pass

    def progressed(self, item: Item, status: Status) -> None:
        pass

    def skipped(self, item: Item, paths: Sequence[Path]) -> None:
        print(f"{item.label}: done before -> {listed(paths)}", file=self._out)

    def done(self, item: Item, saved: Saved, status: Status) -> None:
        seconds = status.raw.get("processing_time_seconds")
        took = f" in {seconds:.2f} s" if isinstance(seconds, int | float) else ""
        where = f" by {status.instance}" if status.instance else ""
        print(f"{item.label}: done{where}{took} -> {told_of(saved)}", file=self._out)

    def failed(self, item: Item, why: str) -> None:
        print(f"{item.label}: failed: {why}", file=sys.stderr)

    def over(self, item: Item) -> None:
        pass


def listed(paths: Sequence[Path]) -> str:
    return ", ".join(map(shown, paths)) or "standard output"


def told_of(saved: Saved) -> str:
    """Where the results are, and why they are not called as one would expect."""
    why = f" ({shown(saved.avoided)} is another one)" if saved.avoided else ""
    return f"{listed(saved.paths)}{why}"
