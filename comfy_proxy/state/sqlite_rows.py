"""What stands in the SQLite file: one table, and the statements for it. Run in the store's thread.

A value is one row, or several of ``PIECE_BYTES`` each if it is larger.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from typing import Final

from comfy_proxy.state.store import BATCH_BYTES, BATCH_VALUES, Value

PIECE_BYTES: Final = 2**20
"""Bytes of a row, and of a picture that are in memory at a time while it is written or read."""
FORMAT: Final = 1
"""``user_version`` of the file. A file with another number is of another version of this program,
and is set aside as broken."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, key BLOB NOT NULL, part INTEGER NOT NULL,
    value BLOB NOT NULL, UNIQUE (kind, key, part)
)
"""
_PUT: Final = """
INSERT INTO entries (kind, key, part, value) VALUES (?, ?, ?, ?)
ON CONFLICT (kind, key, part) DO UPDATE SET value = excluded.value
"""


def prepare(database: sqlite3.Connection) -> None:
    """Make the table, and take the file for this process alone.

    With ``synchronous = FULL`` what was committed outlives a power cut too. Raises
    sqlite3.OperationalError if another process has the file, sqlite3.DatabaseError if it is not
    one of ours.
    """
    (number,) = database.execute("PRAGMA user_version").fetchone()
    if number not in (0, FORMAT):
        raise sqlite3.DatabaseError(f"its format is {number}, not {FORMAT}")
    for pragma in (
        "locking_mode = EXCLUSIVE",
        "auto_vacuum = INCREMENTAL",
        "journal_mode = WAL",
        "synchronous = FULL",
        "secure_delete = FAST",
    ):
        database.execute(f"PRAGMA {pragma}").fetchall()
    database.execute("BEGIN IMMEDIATE")
    database.execute(_SCHEMA)
    database.execute(f"PRAGMA user_version = {FORMAT}")
    database.execute("COMMIT")
    database.execute("PRAGMA incremental_vacuum").fetchall()


def write(database: sqlite3.Connection, batch: Mapping[tuple[str, str], Value | None]) -> None:
    """All of ``batch`` in one transaction, or nothing; None deletes. Raises sqlite3.Error,
    OSError."""
    database.execute("BEGIN IMMEDIATE")
    try:
        for (kind, key), value in batch.items():
            _write_one(database, kind, key, value)
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _write_one(database: sqlite3.Connection, kind: str, name: str, value: Value | None) -> None:
    key = _bytes(name)
    try:
        parts = -1
        for parts, piece in enumerate(() if value is None else _cut(value)):
            database.execute(_PUT, (kind, key, parts, piece))
    except FileNotFoundError:
        parts = -1  # closed: whatever it belongs to has ended meanwhile
    database.execute(
        "DELETE FROM entries WHERE kind = ? AND key = ? AND part > ?", (kind, key, parts)
    )


def _cut(value: Value) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield value[:PIECE_BYTES]
        for at in range(PIECE_BYTES, len(value), PIECE_BYTES):
            yield value[at : at + PIECE_BYTES]
        return
    with value.open() as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def entries(database: sqlite3.Connection, kind: str) -> list[tuple[str, bytes]]:
    """Key and value of each, in the order in which they were first put."""
    found: dict[bytes, bytearray] = {}
    select = "SELECT key, value FROM entries WHERE kind = ? ORDER BY id"
    for key, value in database.execute(select, (kind,)):
        found.setdefault(key, bytearray()).extend(value)
    texts = ((_text(key), value) for key, value in found.items())
    return [(key, bytes(value)) for key, value in texts if key is not None]


def batches(database: sqlite3.Connection, kind: str) -> list[list[str]]:
    """The keys of that kind, in the order in which they were first put, BATCH_VALUES and some
    BATCH_BYTES of values at most together."""
    select = """
        SELECT key, SUM(LENGTH(value)) FROM entries WHERE kind = ? GROUP BY key ORDER BY MIN(id)
    """
    found: list[list[str]] = []
    room = 0
    for key_bytes, size in database.execute(select, (kind,)):
        if (key := _text(key_bytes)) is None:
            continue
        if not found or room < size or len(found[-1]) == BATCH_VALUES:
            found.append([])
            room = BATCH_BYTES
        found[-1].append(key)
        room -= size
    return found


def values(database: sqlite3.Connection, kind: str, keys: list[str]) -> list[tuple[str, bytes]]:
    """Key and value of each of them that is there still."""
    select = "SELECT value FROM entries WHERE kind = ? AND key = ? ORDER BY part"
    read = [(key, database.execute(select, (kind, _bytes(key))).fetchall()) for key in keys]
    return [(key, b"".join(part for (part,) in parts)) for key, parts in read if parts]


def piece(database: sqlite3.Connection, kind: str, key: str, part: int) -> bytes | None:
    """That part of a value; None beyond its end."""
    select = "SELECT value FROM entries WHERE kind = ? AND key = ? AND part = ?"
    row = database.execute(select, (kind, _bytes(key), part)).fetchone()
    return None if row is None else bytes(row[0])


def _bytes(key: str) -> bytes:
    """``key`` for the file. A client may have chosen it, so it may hold lone surrogates."""
    return key.encode("utf-8", "surrogatepass")


def _text(key: bytes) -> str | None:
    """None for a key that was not written here: its row is broken, and no reason not to start."""
    try:
        return key.decode("utf-8", "surrogatepass")
    except ValueError:
        return None
