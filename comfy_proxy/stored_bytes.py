"""Bytes that are kept for a while: small ones in memory, others in a temporary file."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import tempfile
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import BinaryIO, Final, Self, TypeVar

from comfy_proxy.errors import UnavailableError

T = TypeVar("T")

MEMORY_BYTES: Final = 65_536
"""How many bytes stay in memory, unless somebody says otherwise; more go to a temporary file."""
BATCH_BYTES: Final = 262_144
"""How many bytes go to a disk, or come from it, at once. A hop to a thread costs as much as copying
some 100 kB, so smaller batches would mostly hop."""
LARGE_BYTES: Final = 8 * 2**20
"""Bytes of a file (8 MiB). A larger one is removed in a thread."""


class ClosedError(FileNotFoundError, ValueError):
    """The bytes were closed. To whoever reads them the same as a file that somebody has removed
    (FileNotFoundError); ValueError is what Python's own closed files raise."""


class StoredBytes:
    """Written once, hashed on the way, then read as often as wanted.

    Up to ``memory_bytes`` stay in memory, more go to a temporary file that only this user can read.
    Without ``hashed`` there is no digest. Disk work runs on ``executor``, asyncio's own if there is
    none. No descriptor is kept open: a thousand of these would use up the process's. The file is
    removed by :meth:`close`, when the object is collected and when the process exits; a reader that
    was opened before goes on to its end. One writer at a time.
    """

    def __init__(
        self,
        *,
        memory_bytes: int = MEMORY_BYTES,
        hashed: bool = True,
        executor: Executor | None = None,
    ) -> None:
        self._memory_bytes = memory_bytes
        self._hashed = hashed
        self._executor = executor
        self._batch = bytearray()
        self._path: str | None = None
        self._remove: weakref.finalize[[str], StoredBytes] | None = None
        self._hash = hashlib.sha256()
        self._cut: tuple[int, str] | None = None
        self._holders = 0
        self.closed = False
        """True after :meth:`close`: nothing can be read then, but for those who hold it."""
        self.size = 0
        self.on_disk = 0
        """Bytes from the beginning that are in the file already."""

    def __repr__(self) -> str:
        place = "closed" if self.closed else "disk" if self._path else "memory"
        return f"<{type(self).__name__} {self.size} bytes, {place}>"

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes; final after :meth:`finish`."""
        return self._hash.hexdigest() if self._cut is None else self._cut[1]

    @property
    def in_memory(self) -> bool:
        """True if no file was needed."""
        return self._path is None

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append ``chunk``. Raises UnavailableError if the disk does not take it (it is full)."""
        self._batch += chunk
        self.size += len(chunk)
        if len(self._batch) > max(BATCH_BYTES, self._memory_bytes if self._path is None else 0):
            await self._flush()

    async def write_out(self, pieces: Sequence[bytes | bytearray]) -> None:
        """Append ``pieces`` to the file now, even if so few bytes could stay in memory, and copy
        none of them. Not for bytes that :meth:`write` is used for as well. Raises as that."""
        try:
            path = self._path or self._make_file()
            await run_in(self._executor, lambda: self._append(path, pieces))
        except OSError as error:
            message = "The body cannot be stored at the moment."
            raise UnavailableError(message, code="storage_unavailable") from error
        self.on_disk += sum(map(len, pieces))
        self.size = max(self.size, self.on_disk)

    async def finish(self) -> Self:
        """Nothing more will be written; to be called before anything is read. Raises as write."""
        if self._path is not None or self.size > self._memory_bytes:
            await self._flush()
        elif self._hashed and self.size > BATCH_BYTES:
            await run_in(self._executor, lambda: self._hash.update(bytes(self._batch)))
        elif self._hashed:
            self._hash.update(self._batch)
        return self

    def open(self, places: range | None = None) -> BinaryIO:
        """A new file object at the start, independent of others; the caller closes it. With
        ``places`` it has the bytes from there alone.

        Raises ClosedError after :meth:`close`, unless it is held; FileNotFoundError if somebody
        removed the file.
        """
        if self.closed and not self._holders:
            raise ClosedError("The bytes are closed.")
        if self._cut is None and places is None:
            return io.BytesIO(self._batch) if self._path is None else open(self._path, "rb")
        before = 0 if self._cut is None else self._cut[0]
        wanted = range(self.size) if places is None else places
        start, end = before + wanted.start, before + wanted.stop
        if self._path is None:
            return io.BytesIO(self._batch[start:end])
        return _Window(self._path, start, end)

    def cut(self, start: int, size: int, digest: str) -> None:
        """From now on only these ``size`` bytes can be read, and ``digest`` is theirs. The others
        stay where they are until :meth:`close`. To be called when nobody writes or reads any more.
        """
        self.size, self._cut = size, (start, digest)

    async def read(self, places: range | None = None) -> bytes:
        """All bytes, or those at ``places``, at once. Raises as :meth:`open`."""

        def read_all() -> bytes:
            with self.open(places) as file:
                return file.read()

        return read_all() if self._path is None else await run_in(self._executor, read_all)

    async def chunks(self, places: range | None = None) -> AsyncGenerator[bytes, None]:
        """All bytes, or those at ``places``, in order, BATCH_BYTES at most at a time. Raises as
        :meth:`open`."""
        with self.open(places) as file:
            while chunk := await read_some(file, BATCH_BYTES):
                yield chunk

    def close(self) -> None:
        """Forget the bytes and remove the file, at once or when nobody holds it any more; may be
        called again, and during a write."""
        self.closed = True
        if self._holders:
            return
        self._batch.clear()
        if self._remove is not None:
            self._remove()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside the block :meth:`open` works, as often as wanted, even if others close it."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            if self.closed:
                self.close()

    async def _flush(self) -> None:
        batch, self._batch = self._batch, bytearray()
        await self.write_out([batch])

    def _make_file(self) -> str:
        # On the event loop, not in a thread: if the write is cancelled, close() must know the file
        # to remove it.
        descriptor, self._path = tempfile.mkstemp(prefix="comfy-proxy-")
        os.close(descriptor)
        self._remove = weakref.finalize(self, _unlink, self._path)
        return self._path

    def _append(self, path: str, pieces: Sequence[bytes | bytearray]) -> None:
        if self._hashed:
            for piece in pieces:
                self._hash.update(piece)
        try:
            # "r+b" does not bring back a file that was removed while this waited for its thread.
            with open(path, "r+b") as file:
                file.seek(0, os.SEEK_END)
                file.writelines(pieces)
        except FileNotFoundError:
            if not self.closed:
                raise


async def run_in(executor: Executor | None, work: Callable[[], T]) -> T:
    """``work``, done in a thread of ``executor``; asyncio's own if that is None."""
    return await asyncio.get_running_loop().run_in_executor(executor, work)


class _Window(io.FileIO):
    """The file's bytes from ``start`` to ``end``, and no others. It has no buffer of its own."""

    def __init__(self, path: str, start: int, end: int) -> None:
        super().__init__(path)
        self._left = end - start
        self.seek(start)

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = self._left if size is None or size < 0 else min(size, self._left)
        data = super().read(wanted)
        self._left -= len(data)
        return data


async def read_some(file: BinaryIO, size: int) -> bytes:
    """Up to ``size`` bytes of what :meth:`StoredBytes.open` gave; from a disk in a thread."""
    if isinstance(file, io.BytesIO):
        return file.read(size)
    return await asyncio.to_thread(file.read, size)


def _unlink(path: str) -> None:
    """Remove the file; a large one in a thread if an event loop runs here, because to remove 50 MB
    takes 20 to 60 ms.

    The thread is asked for in the next turn of the loop: the garbage collector may call this at any
    point, also where the executor holds the lock that it would wait for, and nothing went on ever
    again.
    """
    with contextlib.suppress(OSError):
        if os.stat(path).st_size > LARGE_BYTES:
            with contextlib.suppress(RuntimeError):  # no loop runs here
                loop = asyncio.get_running_loop()
                loop.call_soon(_remove_in_thread, loop, path)
                return
    _remove(path)


def _remove_in_thread(loop: asyncio.AbstractEventLoop, path: str) -> None:
    try:
        loop.run_in_executor(None, _remove, path)
    except RuntimeError:  # its threads have ended
        _remove(path)


def _remove(path: str) -> None:
    # Windows keeps a file that somebody still reads; the system's clean-up takes it later.
    with contextlib.suppress(OSError):
        os.unlink(path)
