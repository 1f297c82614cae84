"""A body that is put together of parts: bytes made here, and slices of what instances said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass
from typing import BinaryIO, Final

from comfy_proxy.stored_bytes import BATCH_BYTES, StoredBytes

AT_ONCE: Final = 1_000
"""Items of a list that are put together before the event loop has its turn."""


@dataclass(frozen=True, slots=True)
class Slice:
    """The bytes ``start:end`` of ``source``."""

    source: StoredBytes
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    def replaced(self, parts: Iterable[tuple[int, int, bytes]]) -> list[Piece]:
        """This slice with other bytes for each ``(start, end, bytes)``.

        ``start`` and ``end`` are places in ``source``, within this slice and in order.
        """
        pieces: list[Piece] = []
        at = self.start
        for start, end, content in parts:
            pieces += (Slice(self.source, at, start), content)
            at = end
        return [*pieces, Slice(self.source, at, self.end)]


Piece = bytes | Slice


async def listed(items: Iterable[Iterable[Piece]]) -> list[Piece]:
    """The pieces of all items, with a comma and a blank between two items, as ComfyUI writes it.
    After every AT_ONCE items the event loop has its turn."""
    pieces: list[Piece] = []
    for index, item in enumerate(items):
        if index:
            pieces.append(b", ")
            if index % AT_ONCE == 0:
                await asyncio.sleep(0)
        pieces += item
    return pieces


def length(pieces: Iterable[Piece]) -> int:
    """How many bytes they are."""
    return sum(map(len, pieces))


def in_memory(pieces: Iterable[Piece]) -> bool:
    """True if no disk is needed to read them."""
    return all(isinstance(one, bytes) or one.source.in_memory for one in pieces)


def joined(pieces: Iterable[Piece]) -> bytes:
    """All bytes at once; reads files, if there are any among them."""
    return b"".join(_batches(pieces))


async def batches(pieces: Sequence[Piece]) -> AsyncGenerator[bytes, None]:
    """The bytes in order, some BATCH_BYTES each; files are read in a thread. Raises OSError."""
    reading = _batches(pieces)
    try:
        while batch := await asyncio.to_thread(next, reading, b""):
            yield batch
    finally:
        with suppress(ValueError):  # a thread still reads after a cancellation: it is collected
            reading.close()


async def read(pieces: Sequence[Piece]) -> bytes:
    """All bytes at once. Raises OSError."""
    if in_memory(pieces):
        return joined(pieces)
    async with aclosing(batches(pieces)) as read_batches:
        return b"".join([batch async for batch in read_batches])


def _batches(pieces: Iterable[Piece]) -> Generator[bytes, None, None]:
    """Many small pieces are one batch: a hop to a thread costs as much as copying 100 kB."""
    batch = bytearray()
    with ExitStack() as files:
        opened: dict[StoredBytes, BinaryIO] = {}
        for piece in pieces:
            if isinstance(piece, bytes):
                batch += piece
            else:
                if piece.source not in opened:
                    opened[piece.source] = files.enter_context(piece.source.open())
                file = opened[piece.source]
                file.seek(piece.start)
                left = len(piece)
                while left and (some := file.read(min(left, BATCH_BYTES))):
                    left -= len(some)
                    batch += some
                    if len(batch) >= BATCH_BYTES:
                        yield bytes(batch)
                        batch.clear()
                if left:
                    raise OSError("The stored answer is shorter than it was.")
            if len(batch) >= BATCH_BYTES:
                yield bytes(batch)
                batch.clear()
    if batch:
        yield bytes(batch)
