"""The state in one SQLite file, in WAL mode, which one thread writes.

It is the standard library's module in a thread of ours, not aiosqlite: that has a thread and a
queue too, and one trip to the thread for each statement, where here a whole batch takes one trip.

All that is put while a batch is being written is the next batch, one transaction. So many requests
at the same time wait for one write of the disk, and a lone request waits for no other one's.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

from loguru import logger

from comfy_proxy.state import sqlite_rows as rows
from comfy_proxy.state.sqlite_reader import SqliteReader
from comfy_proxy.state.store import Value
from comfy_proxy.tracing import untraced

MAX_UNWRITTEN_BYTES: Final = 64 * 2**20
"""Bytes that are kept in memory while the disk takes none (it is full). Beyond them the expendable
kinds are dropped; if that is not enough the file is set aside, and nothing is kept until the next
start."""
_OVERHEAD: Final = 200  # bytes that an entry counts beyond its value

_Entry = tuple[str, str]


class SqliteStore(SqliteReader):
    """Fills :class:`comfy_proxy.state.store.StateStore`; :meth:`open` first, :meth:`close` last.

    The file is readable by its owner alone (mode 0600, which is restored if it was wider): the
    graphs in it may hold secrets. It belongs to one process at a time. ``expendable`` are the kinds
    that are given up first, and alone if that is enough, while the disk takes nothing.
    """

    def __init__(self, path: Path, *, expendable: Collection[str] = ()) -> None:
        super().__init__(path)
        self._expendable = expendable
        self._unwritten: dict[_Entry, Value | None] = {}
        self._unwritten_bytes = 0
        self._waiters: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._failing = False
        self._closing = False

    def __repr__(self) -> str:
        state = "closed" if self._database is None else "open"
        return f"<SqliteStore {self._path} {state}, {len(self._unwritten)} unwritten>"

    async def open(self) -> bool:
        """Open the file, or make it; False, and the error is in the log, if that cannot be.

        A file that is no database is set aside as ``….broken``, and a new one is begun.
        """
        try:
            self._database = await self._in_thread(lambda: _connect_anew(self._path))
        except (OSError, sqlite3.Error) as error:
            logger.error(
                "STATE_FILE {} cannot be used, so a restart forgets everything: {}",
                self._path,
                error,
            )
            return False
        self._writer = asyncio.create_task(self._write_all(), name="state", context=untraced())
        return True

    async def close(self) -> None:
        """Write what is left, and close the file."""
        self._closing = True
        self._wake.set()
        if self._writer is not None:
            await self._writer
        if (database := self._database) is not None:
            self._database = None
            with suppress(sqlite3.Error):
                await self._in_thread(database.close)
        self._thread.shutdown(wait=True)

    # --- writing -----------------------------------------------------------------------------

    def put(self, kind: str, key: str, value: Value) -> None:
        """See :class:`StateStore`."""
        self._note(kind, key, value)

    def delete(self, kind: str, key: str) -> None:
        """See :class:`StateStore`."""
        self._note(kind, key, None)

    async def flush(self) -> None:
        """See :class:`StateStore`."""
        if self._database is None or self._closing:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._wake.set()
        await waiter

    def _note(self, kind: str, key: str, value: Value | None) -> None:
        if self._database is None:
            return
        before = self._unwritten.pop((kind, key), None)
        self._unwritten[kind, key] = value
        self._unwritten_bytes += _size(value) - (_size(before) if before is not None else 0)
        self._wake.set()

    async def _write_all(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            is_last = self._closing  # all that was put before is in this batch
            waiters, self._waiters = self._waiters, []
            await self._write_batch()
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
            if is_last:
                return

    async def _write_batch(self) -> None:
        batch, self._unwritten, self._unwritten_bytes = self._unwritten, {}, 0
        database = self._database
        if not batch or database is None:
            return
        try:
            await self._in_thread(lambda: rows.write(database, batch))
        except (OSError, sqlite3.OperationalError) as error:
            await self._failed(batch, error)
        except sqlite3.DatabaseError as error:  # it is damaged: nothing will mend it
            logger.error("STATE_FILE {} cannot be written: {}", self._path, error)
            await self._give_up()
        except Exception as error:  # a fault of ours, which must not end all writing
            logger.opt(exception=error).error("a part of the state is not kept")
        else:
            if self._failing:
                logger.info("STATE_FILE {} is written again", self._path)
            self._failing = False

    async def _failed(self, batch: dict[_Entry, Value | None], error: Exception) -> None:
        """Keep ``batch`` for the next write, within MAX_UNWRITTEN_BYTES."""
        if not self._failing:
            logger.error("STATE_FILE {} cannot be written: {}", self._path, error)
        self._failing = True
        self._unwritten = {**batch, **self._unwritten}
        self._unwritten_bytes = sum(map(_size, self._unwritten.values()))
        if self._unwritten_bytes > MAX_UNWRITTEN_BYTES:
            self._spare_memory()
        if self._unwritten_bytes > MAX_UNWRITTEN_BYTES:
            await self._give_up()

    def _spare_memory(self) -> None:
        """Drop the expendable values; an older one in the file is to be deleted, as it is
        outdated."""
        for kind, key in self._unwritten:
            if kind in self._expendable:
                self._unwritten[kind, key] = None
        self._unwritten_bytes = sum(map(_size, self._unwritten.values()))

    async def _give_up(self) -> None:
        """Keep nothing until the next start, which must not find what is out of date by then: the
        file is set aside."""
        logger.error("STATE_FILE {} is given up: what it holds is set aside", self._path)
        database, self._database, self._unwritten = self._database, None, {}
        if database is not None:
            with suppress(sqlite3.Error, OSError):
                await self._in_thread(database.close)
            with suppress(OSError):
                await self._in_thread(lambda: _set_aside(self._path))


def _size(value: Value | None) -> int:
    """Bytes that ``value`` takes in memory. Those of a StoredBytes are counted where it was
    made."""
    return _OVERHEAD + (len(value) if isinstance(value, bytes) else 0)


def _connect_anew(path: Path) -> sqlite3.Connection:
    try:
        return _connect(path)
    except sqlite3.OperationalError:  # in use, no room: there is nothing wrong with the file itself
        raise
    except sqlite3.DatabaseError as error:
        aside = _set_aside(path)
        logger.error("STATE_FILE {} is no database of ours ({}); it is {} now", path, error, aside)
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _make_private(path)
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        rows.prepare(database)
    except BaseException:
        database.close()
        raise
    return database


def _make_private(path: Path) -> None:
    """SQLite gives the files that it makes beside this one the same mode."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.name == "posix" and stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
            logger.warning("STATE_FILE {} could be read by others: now its mode is 0600", path)
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _set_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.broken")
    os.replace(path, aside)
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", f"{aside}{suffix}")
    return aside
