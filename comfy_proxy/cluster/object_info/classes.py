"""The classes of one instance by name: a table of all, and what has been asked again since."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from comfy_proxy.cluster.object_info.class_table import ClassTable
from comfy_proxy.cluster.object_info.node_class import NodeClass

Changed = Mapping[str, ClassTable | None]
"""Class → the table in which it is now; None: it is gone."""
_NOTHING = ClassTable(b"{}")


class Classes:
    """A collection of names, in the instance's order, each with its class. Never changed."""

    __slots__ = ("__weakref__", "_changed", "_count", "table")

    def __init__(self, table: ClassTable | None = None, changed: Changed | None = None) -> None:
        self.table = _NOTHING if table is None else table
        self._changed = changed or {}
        self._count = len(self.table) + sum(
            (now is not None) - (name in self.table) for name, now in self._changed.items()
        )

    def __repr__(self) -> str:
        return f"<{len(self)} classes>"

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        if not self._changed:
            yield from self.table
            return
        yield from (name for name in self.table if self._changed.get(name, self) is not None)
        for name, table in self._changed.items():
            if table is not None and name not in self.table:
                yield name

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.where(name)

    def __eq__(self, other: object) -> bool:
        """Whether both have the same classes, which say the same, be it written differently."""
        if not isinstance(other, Classes):
            return NotImplemented
        return set(self) == set(other) and all(self._has_same(name, other) for name in self)

    __hash__ = None  # type: ignore[assignment]

    def get(self, name: str) -> NodeClass | None:
        """The class of that name; None if the instance has none."""
        return self.where(name).get(name)

    def text(self, name: str) -> bytes | None:
        """What the instance says of that class, byte for byte; None if it has none."""
        return self.where(name).text(name)

    def where(self, name: str) -> ClassTable:
        """The table that has that class, if the instance has it: the same table says the same."""
        table = self._changed.get(name, self.table)
        return _NOTHING if table is None else table

    @property
    def native(self) -> bytes | None:
        """All classes as ComfyUI writes them, if the instance has sent just that; else None."""
        return self.table.body if self.table.is_native and not self._changed else None

    def news(self, names: Sequence[str], now: Classes) -> Changed:
        """What is changed when the classes ``names`` are as in ``now``; empty if nothing is."""
        differing = [name for name in names if not self._has_same(name, now)]
        if not differing:
            return {}
        where = {name: now.where(name) if name in now else None for name in differing}
        return {**self._changed, **where}

    def found(self, ask: Callable[[ClassTable], Iterator[str]]) -> list[str]:
        """The names of which the tables answer, each table for the classes that are in it now."""
        changed = {id(table): table for table in self._changed.values() if table is not None}
        tables = (self.table, *changed.values())
        names = {name for table in tables for name in ask(table) if self.where(name) is table}
        return [name for name in self if name in names] if names else []

    def _has_same(self, name: str, other: Classes) -> bool:
        mine, theirs = self.where(name), other.where(name)
        return mine.text(name) == theirs.text(name) or mine.get(name) == theirs.get(name)
