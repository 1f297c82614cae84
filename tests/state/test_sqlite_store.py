"""SqliteStore: what it promises to outlive us does, and a fault of its file ends nobody."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from comfy_proxy.state import sqlite_store
from comfy_proxy.state.sqlite_store import SqliteStore
from comfy_proxy.stored_bytes import StoredBytes

LARGE = os.urandom(2_500_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "proxy.sqlite"


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What is logged of errors."""
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), level="ERROR", format="{message}")
    yield lines
    logger.remove(sink)


@asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, **options)
    assert await store.open()
    try:
        yield store
    finally:
        await store.close()


async def value(store: SqliteStore, kind: str, key: str) -> bytes:
    return b"".join([piece async for piece in store.pieces(kind, key)])


async def full(store: SqliteStore, pages: int) -> None:
    """As if the disk had room for so many pages and no more."""
    database = store._database
    assert database is not None
    await store._in_thread(lambda: database.execute(f"PRAGMA max_page_count = {pages}").fetchall())


def modes(directory: Path) -> set[int]:
    return {stat.S_IMODE(one.stat().st_mode) for one in directory.iterdir()}


def spoil(path: Path, kind: str) -> bytes:
    """Make it a file that is none of ours; its bytes."""
    path.parent.mkdir()
    if kind == "no database":
        path.write_bytes(b"not SQLite" * 1000)
    else:
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA user_version = 99")
    return path.read_bytes()


async def test_what_was_put_is_there_again(path: Path) -> None:
    """In the order in which the keys came first, by the last value, less what was deleted."""
    async with opened(path) as store:
        for key in ("b", "a", "c"):
            store.put("job", key, key.encode())
        store.put("prompt", "a", b"another kind")
        await store.flush()
        store.put("job", "b", b"changed")
        store.delete("job", "c")
        store.delete("job", "unknown")
        assert [key for key, _ in await store.entries("job")] == ["b", "a", "c"]  # not yet written
    async with opened(path) as store:
        assert await store.entries("job") == [("b", b"changed"), ("a", b"a")]
        assert await store.entries("prompt") == [("a", b"another kind")]


async def test_closed_in_the_middle_of_a_write(path: Path) -> None:
    """What was put while a batch was being written is written too."""
    async with opened(path) as store:
        store.put("job", "one", LARGE)
        await asyncio.sleep(0)  # it is being written
        await asyncio.sleep(0)
        assert not store._unwritten
        store.put("job", "two", b"2")
    async with opened(path) as store:
        assert [key for key, _ in await store.entries("job")] == ["one", "two"]


async def test_after_a_flush_a_kill_loses_nothing(path: Path, tmp_path: Path) -> None:
    """The files as they are at that moment, without anything being closed, have it all."""
    async with opened(path) as store:
        store.put("job", "one", b"1")
        await store.flush()
        killed = tmp_path / "killed"
        shutil.copytree(path.parent, killed)
    async with opened(killed / path.name) as store:
        assert await store.entries("job") == [("one", b"1")]


@pytest.mark.parametrize("stored", [False, True])
async def test_a_large_value(path: Path, stored: bool) -> None:
    """Any number of bytes comes back as it was; a shorter one in its place leaves nothing of it."""
    large: bytes | StoredBytes = LARGE
    if stored:
        large = StoredBytes()
        await large.write(LARGE)
        await large.finish()
    async with opened(path) as store:
        store.put("picture", "one", large)
        await store.flush()
        assert await value(store, "picture", "one") == LARGE
        store.put("picture", "one", b"short")
        await store.flush()
        assert await store.entries("picture") == [("one", b"short")]
    if isinstance(large, StoredBytes):
        large.close()


async def test_a_picture_that_is_closed_before_it_is_written(path: Path) -> None:
    """It is not kept, and all that was put beside it is."""
    picture = StoredBytes()
    await picture.write(b"bytes")
    await picture.finish()
    async with opened(path) as store:
        store.put("job", "one", b"1")
        store.put("picture", "one", picture)
        picture.close()
        await store.flush()
        assert await store.entries("job") == [("one", b"1")]
        assert await value(store, "picture", "one") == b""


async def test_only_its_owner_can_read_it(path: Path) -> None:
    """The directory is made; file and log have mode 0600, and a wider one is mended."""
    async with opened(path) as store:
        store.put("job", "one", b"secret")
        await store.flush()
        assert modes(path.parent) == {0o600}
    os.chmod(path, 0o644)
    async with opened(path):
        assert modes(path.parent) == {0o600}


@pytest.mark.parametrize("kind", ["no database", "another format"])
async def test_a_file_that_is_none_of_ours(path: Path, told: list[str], kind: str) -> None:
    """It is set aside as it is, one error says so, and a new one is begun."""
    before = spoil(path, kind)
    async with opened(path) as store:
        store.put("job", "one", b"1")
        await store.flush()
        assert await store.entries("job") == [("one", b"1")]
    aside = path.with_name("proxy.sqlite.broken")
    assert await asyncio.to_thread(aside.read_bytes) == before
    assert len(told) == 1
    assert "is no database of ours" in told[0]


async def test_a_file_that_another_process_has(path: Path, told: list[str]) -> None:
    """It is left to that one, and this one goes on without: nothing raises, nothing waits."""
    async with opened(path) as first, AsyncExitStack() as stack:
        second = SqliteStore(path)
        stack.push_async_callback(second.close)
        assert not await second.open()
        second.put("job", "second", b"2")
        await second.flush()
        assert await second.entries("job") == []
        first.put("job", "first", b"1")
        await first.flush()
        assert await first.entries("job") == [("first", b"1")]
    assert len(told) == 1
    assert "so a restart forgets everything" in told[0]


async def test_keys_of_clients_own_choice(path: Path) -> None:
    """Any text is a key, also one that is no UTF-8."""
    keys = ["", "a/../b", "\udce9", "\x00", "x" * 10_000]
    async with opened(path) as store:
        for key in keys:
            store.put("prompt", key, b"1")
    async with opened(path) as store:
        assert [key for key, _ in await store.entries("prompt")] == keys
        assert await value(store, "prompt", "\udce9") == b"1"


async def test_a_row_whose_name_is_broken_is_passed_over(path: Path) -> None:
    """The others are there: it is no reason not to start."""
    async with opened(path) as store:
        store.put("kind", "one", b"1")
        store.put("kind", "two", b"2")
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE entries SET key = ? WHERE key = ?", (b"\xff\xfe", b"one"))
        database.commit()
    async with opened(path) as store:
        assert await store.entries("kind") == [("two", b"2")]
        assert [batch async for batch in store.batches("kind")] == [[("two", b"2")]]


async def test_a_file_that_is_damaged_later(path: Path, told: list[str]) -> None:
    """It is set aside, nobody waits for it, and the next start begins a new one."""

    def damage(*_: object) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    async with opened(path) as store:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sqlite_store.rows, "write", damage)
            store.put("job", "one", b"1")
            await store.flush()
        await store.flush()
    async with opened(path) as store:
        assert await store.entries("job") == []
    assert "malformed" in told[0]


@pytest.mark.logs_faults
async def test_a_value_that_cannot_be_written(path: Path) -> None:
    """It is left out with an internal fault in the log; what comes after it is written."""
    async with opened(path) as store:
        store.put("job", "odd", object())  # type: ignore[arg-type]
        await store.flush()
        store.put("job", "one", b"1")
        await store.flush()
        assert await store.entries("job") == [("one", b"1")]


async def test_a_path_that_cannot_be_a_file(tmp_path: Path, told: list[str]) -> None:
    """An error in the log, and nothing else."""
    store = SqliteStore(tmp_path)
    assert not await store.open()
    await store.flush()
    await store.close()
    assert len(told) == 1


async def test_a_full_disk(path: Path, told: list[str]) -> None:
    """One error for the whole outage; nobody waits for it; what could not be written is, once there
    is room again."""
    async with opened(path) as store:
        store.put("job", "before", b"1")
        await store.flush()
        await full(store, 1)
        for number in range(3):
            store.put("job", f"during {number}", bytes(20_000))
            await store.flush()
        store.delete("job", "during 1")
        await full(store, 100_000)
        store.put("job", "after", b"2")
        await store.flush()
        keys = [key for key, _ in await store.entries("job")]
        assert keys == ["before", "during 0", "during 2", "after"]
    assert len(told) == 1
    assert "cannot be written" in told[0]


async def test_what_is_expendable_is_given_up_first(
    path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond MAX_UNWRITTEN_BYTES; an older value of it is not there either, and all else is."""
    monkeypatch.setattr(sqlite_store, "MAX_UNWRITTEN_BYTES", 50_000)
    async with opened(path, expendable=("kept",)) as store:
        store.put("kept", "0", b"older")
        await store.flush()
        await full(store, 1)
        for number in range(5):
            store.put("kept", str(number), bytes(20_000))
            await store.flush()
        store.put("job", "one", bytes(20_000))
        await store.flush()
        await full(store, 100_000)
        store.put("kept", "after", b"1")
        await store.flush()
        assert "0" not in dict(await store.entries("kept"))
        assert "after" in dict(await store.entries("kept"))
        assert list(dict(await store.entries("job"))) == ["one"]
    assert len(told) == 1


async def test_a_disk_that_stays_full(
    path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond MAX_UNWRITTEN_BYTES the file is given up: at the next start it does not bring back
    what has ended since."""
    monkeypatch.setattr(sqlite_store, "MAX_UNWRITTEN_BYTES", 50_000)
    async with opened(path) as store:
        store.put("job", "before", b"1")
        await store.flush()
        await full(store, 1)
        for number in range(5):
            store.put("job", str(number), bytes(20_000))
            await store.flush()
        assert await store.entries("job") == []
    async with opened(path) as store:
        assert await store.entries("job") == []
    assert [("is given up" in line) for line in told] == [False, True]
