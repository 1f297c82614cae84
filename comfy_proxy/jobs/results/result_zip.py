"""All results of a job as one ZIP file, made while it is sent: nothing of it is stored."""

from __future__ import annotations

import asyncio
import hashlib
import io
import zipfile
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack
from typing import BinaryIO, Final, cast

from comfy_proxy.jobs.results.result_file import Results, size_of

_COPY_BYTES: Final = 2**20  # read from a result, and sent, at once
_ENTRY_BYTES: Final = 30 + 16 + 46
"""Bytes around a file, beside its name, which is there twice: header, data descriptor and place in
the directory (APPNOTE.TXT 6.3.10, 4.3.7 to 4.3.12)."""
_END_BYTES: Final = 22
_SHORT_BYTES: Final = 2**30
"""Bytes up to which a ZIP surely has no ZIP64 fields, which ``zipfile`` adds near 2 GiB."""


def zip_etag(results: Results) -> str:
    """A validator of :func:`zip_chunks`, the same for the same results."""
    names = "".join(f"{one.name}\0{one.etag}" for one in results)
    digest = hashlib.sha256(names.encode(errors="replace")).hexdigest()
    return f'"zip-{digest[:32]}"'


def zip_size(results: Results) -> int | None:
    """Bytes of the ZIP, known before it is made; None if it is so large that they are not."""
    names = sum(len(name.encode()) for name in _names(results))
    size = size_of(results) + len(results) * _ENTRY_BYTES + 2 * names + _END_BYTES
    return size if size < _SHORT_BYTES else None


async def zip_chunks(results: Results) -> AsyncGenerator[bytes, None]:
    """The ZIP, a megabyte at a time, from the first step on even if the results are dropped.

    Nothing is compressed: pictures and videos are already. Two results of one name have their
    numbers in front of it. Raises OSError if a file cannot be read.
    """
    with ExitStack() as held:
        for one in results:
            held.enter_context(one.body.held())
        pieces = _pieces(results)
        reading = None
        try:
            while True:
                reading = asyncio.create_task(asyncio.to_thread(next, pieces, b""))
                if not (piece := await asyncio.shield(reading)):
                    return
                yield piece
        finally:  # of a client that leaves the thread may still be at its piece
            if reading is not None:
                await asyncio.wait([reading])
            pieces.close()


def _pieces(results: Results) -> Generator[bytes, None, None]:
    pipe = _Pipe()
    with zipfile.ZipFile(cast(BinaryIO, pipe), "w", zipfile.ZIP_STORED) as archive:
        for name, one in zip(_names(results), results, strict=True):
            # ZipInfo has the same date for all: the ZIP of the same results has the same bytes.
            entry = zipfile.ZipInfo(name)
            entry.file_size = one.size
            with archive.open(entry, "w") as into, one.body.open() as source:
                while data := source.read(_COPY_BYTES):
                    into.write(data)
                    yield pipe.taken()
    yield pipe.taken()


class _Pipe(io.RawIOBase):
    """A file that only grows; what was written is taken out at the other end."""

    def __init__(self) -> None:
        self._written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        self._written += data
        return len(data)

    def taken(self) -> bytes:
        """What was written since the last time."""
        data = bytes(self._written)
        self._written.clear()
        return data


def _names(results: Results) -> list[str]:
    """A name for each, no two of them alike on a system that does not tell case apart."""
    names = [one.name.replace("/", "_") for one in results]
    times = Counter(name.casefold() for name in names)
    taken = {name for name, number in times.items() if number == 1}
    for at, name in enumerate(names):
        if name.casefold() in taken and times[name.casefold()] == 1:
            continue
        numbered = f"{at}-{name}"
        while numbered.casefold() in taken:
            numbered = f"{at}-{numbered}"
        taken.add(numbered.casefold())
        names[at] = numbered
    return names
