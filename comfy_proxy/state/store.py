"""Where the state is kept, as the rest of this room sees it: values by kind and key.

``sqlite_store.py`` is the one that there is. Another one (Redis, Postgres) has these methods and
nothing else; ledger and jobs know of none of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, Protocol

from comfy_proxy.stored_bytes import StoredBytes

BATCH_BYTES: Final = 2**20
"""Bytes of values in one batch (:meth:`StateStore.batches`); a longer value comes alone."""
BATCH_VALUES: Final = 100
"""Values in one batch at most, however short, so that the event loop reads one in a millisecond."""
Value = bytes | StoredBytes
"""Small values as bytes; a picture as what it is stored in, of which a piece at a time is read."""


class StateStore(Protocol):
    """Keeps values under ``(kind, key)``. Faults are its own: nothing here raises, so that a full
    disk does not end what it only keeps a record of."""

    def put(self, kind: str, key: str, value: Value) -> None:
        """Keep ``value``, in the place of an earlier one; written soon, together with others.

        Returns at once. A StoredBytes that is closed before it was written is not kept.
        """
        ...

    def delete(self, kind: str, key: str) -> None:
        """Delete the value; nothing happens if there is none."""
        ...

    async def flush(self) -> None:
        """Returns when all that was put and deleted before is on the disk, or cannot be."""
        ...

    async def entries(self, kind: str) -> list[tuple[str, bytes]]:
        """Key and value of each, in the order in which the keys were first put."""
        ...

    def batches(self, kind: str) -> AsyncIterator[list[tuple[str, bytes]]]:
        """As :meth:`entries`, in batches: for kinds that are too large to be in memory at once, or
        to be read by the event loop in one go."""
        ...

    def pieces(self, kind: str, key: str) -> AsyncIterator[bytes]:
        """The bytes of one value, in order; nothing if it is not there."""
        ...
