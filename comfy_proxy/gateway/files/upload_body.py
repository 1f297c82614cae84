"""The body of an upload, kept as it came: received first, or passed on to instances while it comes.

A :class:`PassedBody` has one reader of what the client sends (:meth:`~UploadBody.receive`), which
only keeps it. Everybody else follows what is kept, from the first byte on: the reader of the form,
and each sender, of which there are several one after the other if an instance dies. So a sender
that is cut off loses nothing of the body, and an instance that reads slowly makes nobody wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from functools import partial
from typing import BinaryIO, Final, Self

from aiohttp import hdrs, web
from aiohttp.helpers import parse_mimetype

from comfy_proxy.bodies import ClientBody
from comfy_proxy.errors import UnavailableError
from comfy_proxy.gateway.files.records import MAX_STORED_BYTES
from comfy_proxy.gateway.files.upload_form import PIECE_BYTES, FileSpan
from comfy_proxy.stored_bytes import BATCH_BYTES, StoredBytes

PASSED_BYTES: Final = 2**20
"""A body of at least so many bytes (1 MiB) is passed on while it comes. A shorter one is received
first: it is here within milliseconds, and an instance is asked only about what is whole."""
SMALL_BYTES: Final = 65_536
"""Pieces that come one after the other are joined up to so many bytes (64 KiB): a client that sends
byte by byte would else have a list of as many pieces in memory."""
_MAX_BOUNDARY: Final = 70
"""Characters of a boundary (RFC 2046 5.1.1). aiohttp reads no form with a longer one."""


class UploadBody:
    """The request's body, for any number of readers unless it is larger than what we keep.

    Of one that is larger the rest is still with the client (``whole`` is False): then it can be
    read once, to be passed on to an instance, whose answer is probably 413.
    """

    def __init__(self, request: web.Request) -> None:
        self.rest = ClientBody(request.content)
        self.whole = False
        self._stored = StoredBytes(hashed=False)  # its picture is hashed when the form is read

    async def receive(self) -> None:
        """Read up to the limit. Raises RequestError, ClientGoneError, UnavailableError; then what
        was stored is closed."""
        try:
            while chunk := await self.rest.read(PIECE_BYTES):
                await self._stored.write(chunk)
                if self._stored.size > MAX_STORED_BYTES:
                    break
            else:
                self.whole = True
            await self._stored.finish()
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int | None:
        """In bytes; None if the client may send any number."""
        return self._stored.size if self.whole else None

    @property
    def repeatable(self) -> bool:
        """Whether it can be sent once more from the beginning, to another instance."""
        return self.whole

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """What is stored, byte for byte as it came."""
        return self._stored.chunks()

    async def chunks(self) -> AsyncIterator[bytes]:
        """All of it, byte for byte as it came, to be sent to an instance."""
        async for chunk in self._stored.chunks():
            yield chunk
        if not self.whole:
            async for chunk in self.rest:
                yield chunk

    async def take_out(self, span: FileSpan) -> StoredBytes:
        """That part of it, to be closed by the caller. To be called when nobody reads the body any
        more: it is empty afterwards.

        The part stays in the file of the body. If that is more than twice as large as the part
        (somebody has sent a long field beside a short file) it is copied to a file of its own,
        unless the disk is full: files that are kept are counted by the size of their part.
        """
        stored, self._stored = self._stored, StoredBytes(hashed=False)
        is_most = 2 * span.size >= stored.size
        stored.cut(span.start, span.size, span.digest)
        if not is_most:
            with suppress(UnavailableError, OSError):
                return await _copied(stored)
        return stored

    def close(self) -> None:
        self._stored.close()


class PassedBody(UploadBody):
    """A body that is sent while it comes; :meth:`receive` runs beside the senders.

    What ends the form is held back from every instance until :meth:`release`: its last delimiter
    and all that follows, and before that is there as many of the last bytes as may be the beginning
    of it. ComfyUI writes no file before it has read that delimiter. So until :meth:`release` a
    sender can be cut off and nothing was written, and of several forms with one name the one that
    is released first is written first.

    If :meth:`receive` fails those that follow wait for ever: the caller has to cancel them.
    """

    def __init__(self, request: web.Request, boundary: bytes, length: int) -> None:
        super().__init__(request)
        self._length = length
        self._delimiter = b"--" + boundary + b"--"
        self._tail = b""
        self._passable = 0
        """Bytes from the beginning that may be sent before :meth:`release`."""
        self._end_seen = False  # the last delimiter has come
        self._released = False
        self._received = 0
        self._recent: deque[tuple[int, bytes]] = deque()
        """The pieces that came last, each with its place in the body: those that are still to be
        written to the file, and those that were written by the last write."""
        self._news = asyncio.Event()

    @classmethod
    def of(cls, request: web.Request) -> Self | None:
        """The body of ``request``; None if it is to be received first.

        That is one that is shorter than PASSED_BYTES, or longer than MAX_STORED_BYTES, or of
        unknown length, or no form of which we know how it ends.
        """
        length = request.content_length or 0
        kind = parse_mimetype(request.headers.get(hdrs.CONTENT_TYPE, ""))
        boundary = kind.parameters.get("boundary", "")
        is_form = (kind.type, kind.subtype) == ("multipart", "form-data")
        if not is_form or not boundary.isascii() or not 0 < len(boundary) <= _MAX_BOUNDARY:
            return None
        if hdrs.CONTENT_ENCODING in request.headers:
            return None
        if not PASSED_BYTES <= length <= MAX_STORED_BYTES:
            return None
        return cls(request, boundary.encode(), length)

    async def receive(self) -> None:
        """As :meth:`UploadBody.receive`; those that follow get each piece when it has come."""
        try:
            while chunk := await self.rest.read(PIECE_BYTES):
                self._take_in(chunk)
                if self._received - self._stored.on_disk >= BATCH_BYTES:
                    await self._write_out()
            await self._write_out()
            self.whole = True
        except BaseException:
            self.close()
            raise
        self._wake_followers()

    def _take_in(self, chunk: bytes) -> None:
        if not self._end_seen:
            self._look_for_end(chunk)
        start, self._received = self._received, self._received + len(chunk)
        if self._recent and self._recent[-1][0] >= self._stored.on_disk:  # not written yet
            last = self._recent[-1]
            if len(last[1]) + len(chunk) <= SMALL_BYTES:
                start, chunk = last[0], last[1] + chunk
                self._recent.pop()
        self._recent.append((start, chunk))
        self._wake_followers()

    async def _write_out(self) -> None:
        written = self._stored.on_disk
        await self._stored.write_out([piece for start, piece in self._recent if start >= written])
        while self._recent and self._recent[0][0] < written:
            self._recent.popleft()  # it was on the disk before this write

    def _look_for_end(self, chunk: bytes) -> None:
        """Set ``_passable``, now that ``chunk`` comes after ``_tail``."""
        most = len(self._delimiter) - 1
        joint = self._tail + chunk[:most]
        if (found := joint.find(self._delimiter)) < 0:
            found = chunk.find(self._delimiter)
            found = found + len(self._tail) if found >= 0 else -1
        begin, end = self._received - len(self._tail), self._received + len(chunk)
        self._end_seen = found >= 0
        self._tail = (self._tail + chunk[-most:])[-most:]
        self._passable = begin + found if self._end_seen else end - len(self._tail)

    def _wake_followers(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def release(self) -> None:
        """Let the end of the form pass: nothing is held back any more."""
        self._released = True
        self._wake_followers()

    @property
    def size(self) -> int:
        return self._length

    @property
    def repeatable(self) -> bool:
        return True

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """All of it, each piece as soon as it has come."""
        return self._followed(held=False)

    async def chunks(self) -> AsyncIterator[bytes]:
        """As :meth:`pieces`, but what ends the form comes only when it is released."""
        async with aclosing(self._followed(held=True)) as pieces:
            async for piece in pieces:
                yield piece

    async def _followed(self, *, held: bool) -> AsyncGenerator[bytes, None]:
        stored, at = self._stored, 0
        file: BinaryIO | None = None
        try:
            while not (self.whole and at == self._received):
                limit = self._passable if held and not self._released else self._received
                if at >= limit:
                    await self._news.wait()
                    continue
                if self._recent and at >= self._recent[0][0]:
                    start, recent = next(one for one in reversed(self._recent) if one[0] <= at)
                    piece = recent[at - start : limit - start]
                else:
                    file = file or stored.open()
                    length = min(PIECE_BYTES, limit - at, stored.on_disk - at)
                    piece = await asyncio.to_thread(partial(_read_at, file, at, length))
                at += len(piece)
                yield piece
        finally:
            if file is not None:
                file.close()


def _read_at(file: BinaryIO, start: int, size: int) -> bytes:
    """Up to ``size`` bytes from ``start`` on. Raises UnavailableError if there is none, which there
    was: somebody has cut the file."""
    file.seek(start)
    if not (data := file.read(size)):
        message = "The body cannot be read again: its temporary file was changed."
        raise UnavailableError(message, code="storage_unavailable")
    return data


async def _copied(stored: StoredBytes) -> StoredBytes:
    """The same in a file of its own; ``stored`` is closed then. Raises UnavailableError."""
    copy = StoredBytes()
    try:
        async for chunk in stored.chunks():
            await copy.write(chunk)
        await copy.finish()
    except BaseException:
        copy.close()
        raise
    stored.close()
    return copy
