"""Bytes in memory or in a file: the same to whoever reads them."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from comfy_proxy import stored_bytes
from comfy_proxy.stored_bytes import BATCH_BYTES, ClosedError, StoredBytes


@pytest.fixture(autouse=True)
def directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the files are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def files_in(directory: Path) -> list[Path]:
    return list(directory.iterdir())


@pytest.mark.parametrize("memory_bytes", [0, 10, BATCH_BYTES, 2 * BATCH_BYTES])
@pytest.mark.parametrize("beyond", [0, 1])
async def test_up_to_the_limit_there_is_no_file(
    directory: Path, memory_bytes: int, beyond: int
) -> None:
    """One byte more is in a file; size, digest and content are the same either way."""
    content = bytes(range(256)) * ((memory_bytes + 256) // 256)
    content = content[: memory_bytes + beyond]
    stored = StoredBytes(memory_bytes=memory_bytes)
    for start in range(0, len(content), 100_000):
        await stored.write(content[start : start + 100_000])
    await stored.finish()
    assert stored.in_memory is not bool(beyond)
    assert len(files_in(directory)) == beyond
    assert (stored.size, stored.digest) == (len(content), hashlib.sha256(content).hexdigest())
    assert await stored.read() == content
    assert b"".join([chunk async for chunk in stored.chunks()]) == content
    stored.close()
    assert files_in(directory) == []


@pytest.mark.parametrize("error", [FileNotFoundError, ValueError, ClosedError])
async def test_what_is_closed_cannot_be_read(error: type[Exception]) -> None:
    """It is as gone as a file that somebody removed, and as closed as a file of Python's."""
    stored = await StoredBytes().finish()
    assert not stored.closed
    stored.close()
    stored.close()
    assert stored.closed
    with pytest.raises(error):
        stored.open()


async def test_a_close_in_the_middle_of_a_write_brings_no_file_back(directory: Path) -> None:
    """The write waits for its thread while its file is removed: it ends, and nothing is left."""
    go_on = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(go_on.wait)
        stored = StoredBytes(memory_bytes=0, executor=executor)
        writing = asyncio.create_task(stored.write(bytes(BATCH_BYTES + 1)))
        await asyncio.sleep(0)
        assert len(files_in(directory)) == 1
        stored.close()
        go_on.set()
        await writing
    assert files_in(directory) == []


async def test_a_file_goes_with_its_bytes(directory: Path) -> None:
    """Whoever forgets to close leaves nothing either."""
    with ThreadPoolExecutor(1) as executor:  # its threads end, and hold nothing any more
        stored = StoredBytes(memory_bytes=0, hashed=False, executor=executor)
        await stored.write(b"abc")
        await stored.finish()
    assert len(files_in(directory)) == 1
    del stored
    assert files_in(directory) == []


async def test_a_large_file_is_removed_in_a_thread(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pages are given back one by one, and the event loop goes on meanwhile."""
    monkeypatch.setattr(stored_bytes, "LARGE_BYTES", 1000)
    removed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    loop, remove = asyncio.get_running_loop(), stored_bytes.os.unlink

    def unlink(path: str) -> None:
        remove(path)
        loop.call_soon_threadsafe(removed.set_result, threading.get_ident())

    monkeypatch.setattr(stored_bytes.os, "unlink", unlink)
    stored = StoredBytes(memory_bytes=0)
    await stored.write(b"x" * 1001)
    await stored.finish()
    stored.close()
    assert await removed != threading.get_ident()
    assert files_in(directory) == []


async def test_the_garbage_collector_may_remove_one_while_a_thread_is_asked_for(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The executor holds its lock then, and would wait for itself for ever."""

    class Asked(ThreadPoolExecutor):
        is_busy = False
        asked_when_busy = 0

        def submit(self, *work: Any, **more: Any) -> Future[Any]:
            self.asked_when_busy += self.is_busy
            return super().submit(*work, **more)

    monkeypatch.setattr(stored_bytes, "LARGE_BYTES", 1000)
    executor = Asked(1)
    asyncio.get_running_loop().set_default_executor(executor)
    stored = StoredBytes(memory_bytes=0)
    await stored.write(b"x" * 1001)
    await stored.finish()
    executor.is_busy = True
    del stored
    executor.is_busy = False
    await asyncio.sleep(0)
    await asyncio.get_running_loop().shutdown_default_executor()
    assert executor.asked_when_busy == 0
    assert files_in(directory) == []


async def test_a_large_file_goes_when_there_are_no_more_threads(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at the end of the program."""
    monkeypatch.setattr(stored_bytes, "LARGE_BYTES", 1000)
    stored = StoredBytes(memory_bytes=0)
    await stored.write(b"x" * 1001)
    await stored.finish()
    await asyncio.get_running_loop().shutdown_default_executor()
    del stored
    await asyncio.sleep(0)
    assert files_in(directory) == []


@pytest.mark.parametrize("memory_bytes", [0, 2_000])
async def test_a_part_of_the_bytes(memory_bytes: int) -> None:
    """In memory or on the disk: nothing before it and nothing behind it is ever read."""
    content = bytes(range(200)) * 5
    stored = StoredBytes(memory_bytes=memory_bytes, hashed=False)
    await stored.write(content)
    await stored.finish()
    stored.cut(100, 700, "its digest")
    part = content[100:800]
    assert (stored.size, stored.digest) == (700, "its digest")
    assert await stored.read() == part
    assert b"".join([chunk async for chunk in stored.chunks()]) == part
    with stored.open() as file:
        assert [file.read(600), file.read(600), file.read(600)] == [part[:600], part[600:], b""]
    stored.close()
    with pytest.raises(FileNotFoundError):
        stored.open()


async def test_pieces_are_written_out_at_once() -> None:
    """However few they are: what is on the disk is known."""
    stored = StoredBytes(memory_bytes=1_000)
    await stored.write_out([b"abc", b"de"])
    assert stored.on_disk == stored.size == 5
    await stored.write_out([])
    await stored.write_out([b"f"])
    await stored.finish()
    assert stored.on_disk == stored.size == 6
    assert await stored.read() == b"abcdef"
    assert stored.digest == hashlib.sha256(b"abcdef").hexdigest()
    stored.close()


@pytest.mark.parametrize("memory_bytes", [0, 100])
async def test_whoever_holds_them_reads_them_to_the_end(directory: Path, memory_bytes: int) -> None:
    """Others may close them meanwhile; they go when the last holder has let go."""
    stored = StoredBytes(memory_bytes=memory_bytes)
    await stored.write(b"content")
    await stored.finish()
    with stored.held():
        with stored.held():
            stored.close()
            assert await stored.read() == b"content"
        assert await stored.read() == b"content"
    with pytest.raises(ClosedError):
        stored.open()
    assert files_in(directory) == []
