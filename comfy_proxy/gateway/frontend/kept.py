"""What was packed and is kept: bounded in bytes, what was used longest ago goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

MAX_BYTES = 64 * 2**20
"""Of packed bodies in all: some twelve first pages of the frontend of 2026. Beyond, what was asked
for longest ago is forgotten, and packed again when somebody wants it."""
MAX_ENTRY_BYTES = 8 * 2**20
"""Of one packed body; a larger one is sent and not kept, so that it does not drive out a page."""
MAX_VERSIONS = 2
"""Of one file in one coding: instances may have two while one is updated. A third drives out the
oldest, so that the question to the instance names few."""
_OWN_BYTES = 1024
"""What an entry takes beside its body and name, about."""


class Key(NamedTuple):
    """``target`` is the path with its query."""

    target: str
    coding: str
    version: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A packed body. ``headers`` are the instance's, those of the body it sent left out.

    ``tagged``: the instance told an ETag, which is ``key.version``; else ``last_modified`` asks for
    this version, and one that has neither was named by a digest.
    """

    key: Key
    body: bytes = field(repr=False)
    size: int
    headers: Mapping[str, str] = field(repr=False)
    tagged: bool
    last_modified: str | None

    @property
    def cost(self) -> int:
        """Bytes of memory."""
        return len(self.body) + len(self.key.target) + _OWN_BYTES


class Kept:
    """Entries by their keys, at most ``max_bytes`` of them."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._versions: dict[tuple[str, str], list[Key]] = {}
        self.bytes = 0

    def __repr__(self) -> str:
        return f"<Kept {len(self._entries)} entries, {self.bytes} bytes>"

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Entry | None:
        """The entry, which now was the last one used."""
        if (entry := self._entries.get(key)) is not None:
            self._entries.move_to_end(key)
        return entry

    def versions(self, target: str, coding: str) -> list[Entry]:
        """All that are kept of one file in one coding, the newest last."""
        return [self._entries[key] for key in self._versions.get((target, coding), ())]

    def put(self, entry: Entry) -> None:
        """Keep it, unless it is too large; others may have to go."""
        if entry.cost > min(MAX_ENTRY_BYTES, self._max_bytes) or entry.key in self._entries:
            return
        versions = self._versions.setdefault((entry.key.target, entry.key.coding), [])
        versions.append(entry.key)
        self._entries[entry.key] = entry
        self.bytes += entry.cost
        if len(versions) > MAX_VERSIONS:
            self._drop(versions[0])
        while self.bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: Key) -> None:
        self.bytes -= self._entries.pop(key).cost
        name = (key.target, key.coding)
        self._versions[name].remove(key)
        if not self._versions[name]:
            del self._versions[name]
