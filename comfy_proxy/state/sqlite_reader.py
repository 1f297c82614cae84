"""How the SQLite file is read: in the thread that also writes it, so no read stops the event
loop."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import TypeVar

from loguru import logger

from comfy_proxy.state import sqlite_rows as rows

T = TypeVar("T")


class SqliteReader:
    """The reading half of ``sqlite_store.py``, which opens and closes ``_database``.

    While ``_database`` is None each read finds nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="comfy-proxy-state")
        self._database: sqlite3.Connection | None = None

    async def entries(self, kind: str) -> list[tuple[str, bytes]]:
        """See :class:`StateStore`."""
        return await self._read(lambda database: rows.entries(database, kind), [])

    async def batches(self, kind: str) -> AsyncIterator[list[tuple[str, bytes]]]:
        """See :class:`StateStore`."""
        nothing: list[list[str]] = []
        for keys in await self._read(lambda database: rows.batches(database, kind), nothing):
            yield await self._read(partial(rows.values, kind=kind, keys=keys), [])

    async def pieces(self, kind: str, key: str) -> AsyncIterator[bytes]:
        """See :class:`StateStore`."""
        for part in count():
            question = partial(rows.piece, kind=kind, key=key, part=part)
            if (piece := await self._read(question, None)) is None:
                return
            yield piece

    async def _read(self, question: Callable[[sqlite3.Connection], T], nothing: T) -> T:
        if (database := self._database) is None:
            return nothing
        try:
            return await self._in_thread(lambda: question(database))
        except sqlite3.Error as error:
            logger.error("STATE_FILE {} cannot be read: {}", self._path, error)
            return nothing

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
