"""Bodies as they come in, up to a limit: whoever sends without an end must not fill our memory.

A client's is a :class:`ClientBody`. An instance's is read by ``cluster/answer_bodies.py``.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Protocol

from aiohttp import StreamReader, web

from comfy_proxy.errors import PayloadTooLargeError, RequestError


class ClientGoneError(Exception):
    """The client closed its connection; nobody is left to answer, and no instance is to blame."""


SILENCE_S: Final = 60.0
"""Seconds for which a client may send nothing of a body that we wait for, and for which it may
altogether be slower than ``MIN_BYTES_PER_S``. Beyond, 408: who sends a body byte by byte must not
keep its connection and what is held for it."""
MIN_BYTES_PER_S: Final = 1024


class BodyTimeoutError(RequestError):
    """The client is too slow with its body; its connection is closed."""

    status = 408
    code = "request_timeout"


class BoundedStream:
    """``content`` up to ``limit`` bytes; beyond them reading raises what ``too_large`` makes.

    Either iterated over, or handed to aiohttp's MultipartReader: it has what that needs of a
    stream. What ``content`` raises passes through.
    """

    def __init__(
        self, content: StreamReader, limit: float, too_large: Callable[[], Exception]
    ) -> None:
        self._content = content
        self._left = limit
        self._too_large = too_large
        self._unread = b""

    def __aiter__(self) -> BoundedStream:
        return self

    async def __anext__(self) -> bytes:
        piece = await self.readany()
        if not piece:
            raise StopAsyncIteration
        return piece

    async def readany(self) -> bytes:
        """The bytes that have arrived, at least one; empty at the end."""
        return await self._take(self._content.readany())

    async def read(self, size: int) -> bytes:
        """At most ``size`` bytes, at least one; empty at the end."""
        if self._unread:
            data, self._unread = self._unread[:size], self._unread[size:]
            return data
        return await self._take(self._content.read(size))

    async def readline(self, *, max_line_length: int | None = None) -> bytes:
        """The next line with its line feed.

        Raises ValueError for one longer than ``max_line_length`` bytes, or than the stream's
        buffer.
        """
        line, feed, rest = self._unread.partition(b"\n")
        if feed:
            self._unread = rest
            line += feed
        else:
            self._unread = b""
            line += await self._take(self._content.readline())
        if max_line_length is not None and len(line) > max_line_length:
            raise ValueError("A line is too long.")
        return line

    def at_eof(self) -> bool:
        """True if all bytes were read."""
        return not self._unread and self._content.at_eof()

    def unread_data(self, data: bytes) -> None:
        """Put bytes back that belong to the next part; they count only once."""
        self._unread = data + self._unread

    async def _take(self, reading: Awaitable[bytes]) -> bytes:
        data = await self._received(reading)
        self._left -= len(data)
        if self._left < 0:
            raise self._too_large()
        return data

    async def _received(self, reading: Awaitable[bytes]) -> bytes:
        return await reading


def malformed_body() -> RequestError:
    """The error for a body that ends too early, or is not what its headers say."""
    message = "The request body cannot be read: it is malformed."
    return RequestError(message, code="invalid_body")


class ClientBody(BoundedStream):
    """A client's body of at most ``limit`` bytes, which aiohttp's client may be given to send.

    Raises what ``too_large`` makes beyond the limit (PayloadTooLargeError), what ``malformed``
    makes where the body cannot be read (RequestError), what ``gone`` makes if the client leaves
    (ClientGoneError), and BodyTimeoutError if it is too slow. ``error`` is what was raised of all
    but the first: aiohttp's client, if it was given this to send, hides it behind one of its own.
    """

    def __init__(
        self,
        content: StreamReader,
        limit: float = math.inf,
        *,
        too_large: Callable[[], Exception] | None = None,
        malformed: Callable[[], Exception] = malformed_body,
        gone: Callable[[], Exception] = ClientGoneError,
    ) -> None:
        super().__init__(content, limit, too_large or (lambda: _too_large(limit)))
        self._malformed = malformed
        self._gone = gone
        self._received_bytes = 0
        self._waited_s = 0.0
        self.error: Exception | None = None

    async def _received(self, reading: Awaitable[bytes]) -> bytes:
        try:
            data = await self._in_time(reading)
        except BodyTimeoutError as error:
            self.error = error
            raise
        except Exception as error:
            self.error = self._gone() if isinstance(error, OSError) else self._malformed()
            raise self.error from error
        self._received_bytes += len(data)
        return data

    async def _in_time(self, reading: Awaitable[bytes]) -> bytes:
        """Only the time that is waited for the client counts, not what is done with its bytes."""
        if self._content.is_eof():  # all of it is here
            return await reading
        now = asyncio.get_running_loop().time
        left_s = SILENCE_S + self._received_bytes / MIN_BYTES_PER_S - self._waited_s
        began = now()
        scope = asyncio.timeout(min(SILENCE_S, left_s))
        try:
            async with scope:
                return await reading
        except TimeoutError:
            if not scope.expired():
                raise  # the connection's own, and an OSError
            message = f"Less than {MIN_BYTES_PER_S} bytes of the body came in a second."
            raise BodyTimeoutError(message) from None
        finally:
            self._waited_s += now() - began


def _too_large(limit: float) -> PayloadTooLargeError:
    message = f"The body is larger than {limit} bytes."
    return PayloadTooLargeError(message, details={"limit": limit})


class SentBody(Protocol):
    """A body that was read before it is forwarded. ``size`` in bytes, None if the client has not
    sent all of it yet: it is read from ``rest`` then, while :meth:`chunks` are sent."""

    @property
    def size(self) -> int | None: ...

    @property
    def rest(self) -> ClientBody: ...

    def chunks(self) -> AsyncIterator[bytes]: ...


async def read_client_body(
    request: web.Request, limit: int, check: Callable[[bytes], None] = lambda piece: None
) -> bytes:
    """All of the client's body, whatever limit a host application has set; raises as ClientBody,
    and what ``check`` raises, which sees each piece as it comes."""
    body = bytearray()
    async for piece in ClientBody(request.content, limit):
        check(piece)
        body += piece
    return bytes(body)
