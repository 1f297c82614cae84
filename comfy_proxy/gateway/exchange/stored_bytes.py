"""Bytes that the gateway keeps for a while: small ones in memory, others in a temporary file."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import tempfile
import weakref
from typing import BinaryIO, Final

from comfy_proxy.errors import UnavailableError

MEMORY_BYTES: Final = 65_536
"""What stays in memory unless told otherwise; more goes to a temporary file."""
BATCH_BYTES: Final = 262_144
"""How much is written to or read from a disk at once, in a thread: a hop to a thread costs as much
as copying some 100 kB."""


class StoredBytes:
    """Written once, hashed on the way, then read as often as wanted.

    Up to ``memory_bytes`` stay in memory, more go to a temporary file. Without ``hashed`` there is
    no digest. No descriptor is kept open. The file is removed by :meth:`close`, when the object is
    collected and when the process exits; a reader that was opened before goes on to its end. A
    disk that is full is UnavailableError. Disk work runs in a thread.
    """

    def __init__(self, *, memory_bytes: int = MEMORY_BYTES, hashed: bool = True) -> None:
        self._memory_bytes = memory_bytes
        self._hashed = hashed
        self._batch = bytearray()
        self._path: str | None = None
        self._remove: weakref.finalize[[str], StoredBytes] | None = None
        self._hash = hashlib.sha256()
        self._closed = False
        self.size = 0

    def __repr__(self) -> str:
        place = "closed" if self._closed else "disk" if self._path else "memory"
        return f"<StoredBytes {self.size} bytes, {place}>"

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes; final after :meth:`finish`."""
        return self._hash.hexdigest()

    @property
    def in_memory(self) -> bool:
        """True if no file was needed."""
        return self._path is None

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append ``chunk``."""
        self._batch += chunk
        self.size += len(chunk)
        most = self._memory_bytes if self._path is None else 0
        if len(self._batch) >= max(BATCH_BYTES, most):
            await self._flush()

    async def finish(self) -> StoredBytes:
        """Nothing more will be written; to be called before anything is read."""
        if self._path is not None or self.size > self._memory_bytes:
            await self._flush()
        elif self._hashed:
            self._hash.update(self._batch)
        return self

    def open(self) -> BinaryIO:
        """A new file object at the start; the caller closes it. FileNotFoundError if closed."""
        if self._closed:
            raise FileNotFoundError("The bytes are closed.")
        return io.BytesIO(self._batch) if self._path is None else open(self._path, "rb")

    def close(self) -> None:
        """Forget the bytes; may be called again."""
        self._closed = True
        self._batch.clear()
        if self._remove is not None:
            self._remove()

    async def _flush(self) -> None:
        batch = bytes(self._batch)
        self._batch.clear()
        try:
            if self._path is None:
                # On the event loop: whoever cancels the write must find the file to remove it.
                descriptor, self._path = tempfile.mkstemp(prefix="comfy-proxy-")
                os.close(descriptor)
                self._remove = weakref.finalize(self, _unlink, self._path)
            await asyncio.to_thread(self._append, self._path, batch)
        except OSError as error:
            message = "The file cannot be stored at the moment."
            raise UnavailableError(message, code="storage_unavailable") from error

    def _append(self, path: str, batch: bytes) -> None:
        if self._hashed:
            self._hash.update(batch)
        with open(path, "r+b") as file:  # never brings back a file that was removed meanwhile
            file.seek(0, os.SEEK_END)
            file.write(batch)


async def read_some(file: BinaryIO, size: int) -> bytes:
    """Up to ``size`` bytes of what :meth:`StoredBytes.open` gave; from a disk in a thread."""
    if isinstance(file, io.BytesIO):
        return file.read(size)
    return await asyncio.to_thread(file.read, size)


def _unlink(path: str) -> None:
    # Windows keeps a file that somebody still reads; the system's clean-up takes it later.
    with contextlib.suppress(OSError):
        os.unlink(path)
