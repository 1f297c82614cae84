"""A picture on its way through the proxy: in memory while small, on disk when it is not."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import tempfile
import weakref
from collections.abc import Callable
from concurrent.futures import Executor
from typing import BinaryIO, Final, TypeVar

from comfy_proxy.errors import UnavailableError
from comfy_proxy.jobs.pictures import PictureInfo, inspect_picture

T = TypeVar("T")

MEMORY_BYTES: Final = 1_048_576
"""Bytes of a picture that stay in memory; a larger one goes to a temporary file."""
_BATCH_BYTES: Final = 262_144
"""Bytes that are collected before they are hashed and written: a hop to a thread costs as much as
copying some 100 kB."""


class SpooledPicture:
    """Bytes written once, hashed on the way, then read as often as wanted.

    Up to ``memory_bytes`` stay in memory; more goes to a temporary file that only this user can
    read. No descriptor is kept open for it: a thousand waiting jobs would use up those of the
    process. The file is removed by :meth:`close`, when the object is collected, and when the
    process exits. Disk work runs on ``executor``. One task may write at a time; it gets
    UnavailableError ``storage_unavailable`` if the disk is full.
    """

    def __init__(self, executor: Executor, *, memory_bytes: int = MEMORY_BYTES) -> None:
        self._executor = executor
        self._memory_bytes = memory_bytes
        self._batch = bytearray()
        self._memory = b""
        self._path: str | None = None
        self._remove: weakref.finalize[[str], SpooledPicture] | None = None
        self._hash = hashlib.sha256()
        self._info: PictureInfo | None = None
        self._closed = False
        self.size = 0

    def __repr__(self) -> str:
        place = "closed" if self._closed else "disk" if self._path else "memory"
        return f"<SpooledPicture {self.size} bytes, {place}>"

    @property
    def closed(self) -> bool:
        """True after :meth:`close`; nothing can be opened then."""
        return self._closed

    @property
    def info(self) -> PictureInfo:
        """What the picture is. Raises RuntimeError before :meth:`inspect`."""
        if self._info is None:
            raise RuntimeError("the picture was not inspected yet")
        return self._info

    @property
    def sha256(self) -> str:
        """Hex digest of the bytes written."""
        return self._hash.hexdigest()

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append ``chunk``; large amounts are hashed and written off the event loop."""
        self._batch += chunk
        self.size += len(chunk)
        if len(self._batch) >= _BATCH_BYTES:
            await self._flush()

    async def finish(self) -> None:
        """Store the rest of what was written; to be called before anything is read."""
        await self._flush()

    async def inspect(self, *, field: str) -> PictureInfo:
        """Find out what the picture is, on the executor; raises InvalidFieldError.

        See :func:`~comfy_proxy.jobs.pictures.inspect_picture`.
        """

        def look() -> PictureInfo:
            with self.open_reader() as file:
                return inspect_picture(file, field=field)

        self._info = await self._in_thread(look)
        return self._info

    def open_reader(self) -> BinaryIO:
        """A new file object at the start, independent of others; the caller closes it.

        One that was opened before :meth:`close` can be read to its end afterwards.
        """
        if self._closed:
            raise ValueError("the picture is closed")
        if self._path is None:
            return io.BytesIO(self._memory)
        return open(self._path, "rb")

    async def read(self) -> bytes:
        """All bytes."""
        if self._path is None and not self._closed:
            return self._memory

        def read_all() -> bytes:
            with self.open_reader() as file:
                return file.read()

        return await self._in_thread(read_all)

    def close(self) -> None:
        """Forget the bytes and remove the file; may be called again, and during a write."""
        self._closed = True
        self._batch.clear()
        self._memory = b""
        if self._remove is not None:
            self._remove()

    async def _flush(self) -> None:
        batch = bytes(self._batch)
        self._batch.clear()
        if not batch:
            return
        if self._path is None and len(self._memory) + len(batch) <= self._memory_bytes:
            self._hash.update(batch)
            self._memory += batch
            return
        held, self._memory = self._memory, b""
        try:
            path = self._path or self._make_file()
            await self._in_thread(lambda: self._append(path, held, batch))
        except OSError as error:
            message = "The picture cannot be stored at the moment."
            raise UnavailableError(message, code="storage_unavailable") from error

    def _make_file(self) -> str:
        # On the event loop, not in a thread: if the write is cancelled, close() must know the file
        # to remove it.
        descriptor, self._path = tempfile.mkstemp(prefix="comfy-proxy-")
        os.close(descriptor)
        self._remove = weakref.finalize(self, _unlink, self._path)
        return self._path

    def _append(self, path: str, held: bytes, batch: bytes) -> None:
        self._hash.update(batch)
        try:
            # "r+b" does not bring back a file that was removed while this waited for its thread.
            with open(path, "r+b") as file:
                file.seek(0, os.SEEK_END)
                file.write(held)
                file.write(batch)
        except FileNotFoundError:
            if not self._closed:
                raise

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def _unlink(path: str) -> None:
    # Windows keeps a file that somebody still reads; the system's clean-up takes it later.
    with contextlib.suppress(OSError):
        os.unlink(path)
