"""Tables: drawn on a terminal, lines with tabs between the cells in a pipe or a file."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

Rows = Iterable[Sequence[object]]


def on_terminal() -> bool:
    return sys.stdout.isatty()


def drawn(headings: Sequence[str], rows: Rows) -> Table:
    """Long cells are folded, so that nothing of an id is cut off."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(escape(_text(cell)) for cell in row))
    return table


def say_table(headings: Sequence[str], rows: Rows) -> None:
    if on_terminal():
        Console().print(drawn(headings, rows))
        return
    for row in (headings, *rows):
        print("\t".join(_text(cell).replace("\t", " ").replace("\n", " ") for cell in row))


def _text(cell: object) -> str:
    return "-" if cell is None else str(cell)
