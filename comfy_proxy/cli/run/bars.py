"""Progress on a terminal: one bar for all items, one for each that runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from comfy_proxy.cli.run.items import Item
from comfy_proxy.cli.run.outputs import Saved
from comfy_proxy.cli.run.view import told_of
from comfy_proxy.client.models import Status

_PERCENT = 100.0
_LABEL = 32
"""Characters of an item's name that are shown, from its end."""


class Bars:
    """A View. Failures, and results that have another name than expected, stay as lines above."""

    def __init__(self, workflow: str, total: int, console: Console | None = None) -> None:
        console = console or Console()
        self._all = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
        )
        self._sum = self._all.add_task(escape(workflow), total=total, state="")
        self._tasks: dict[int, TaskID] = {}
        """By the identity of its item: two may be called alike."""

    def __enter__(self) -> Self:
        self._all.start()
        return self

    def __exit__(self, kind: object, error: object, traceback: TracebackType | None) -> None:
        for task in self._tasks.values():
            self._all.remove_task(task)
        self._all.stop()

    def began(self, item: Item) -> None:
        label = item.label if len(item.label) <= _LABEL else f"…{item.label[1 - _LABEL :]}"
        self._tasks[id(item)] = self._all.add_task(
            f"  {escape(label)}", total=_PERCENT, state="is sent"
        )

    def progressed(self, item: Item, status: Status) -> None:
        self._all.update(
            self._tasks[id(item)], completed=status.progress_percentage, state=state(status)
        )

    def skipped(self, item: Item, paths: Sequence[Path]) -> None:
        self._all.advance(self._sum)

    def done(self, item: Item, saved: Saved, status: Status) -> None:
        if saved.avoided is not None:
            self._all.console.print(escape(f"{item.label} -> {told_of(saved)}"))
        self._all.advance(self._sum)

    def failed(self, item: Item, why: str) -> None:
        self._all.console.print(f"[red]{escape(item.label)}: failed: {escape(why)}")
        self._all.advance(self._sum)

    def over(self, item: Item) -> None:
        if (task := self._tasks.pop(id(item), None)) is not None:
            self._all.remove_task(task)


def state(status: Status) -> str:
    """Where a job is: ``waits, place 3`` or ``gpu:8188, node 4``."""
    if status.status == "pending":
        place = status.queue_position
        return "waits" if place is None else f"waits, place {place}"
    parts = [status.instance or "", f"node {status.current_node}" if status.current_node else ""]
    return escape(", ".join(part for part in parts if part))
