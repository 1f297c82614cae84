"""Answers of the gateway: the instance's own, cut off ones, and those that nobody reads."""

from __future__ import annotations

import socket
import struct
from typing import Any

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion11

from comfy_proxy.counted_response import LARGE, CountedResponse
from comfy_proxy.gateway.exchange.context import CONTEXT

CLIENT_CLOSED_REQUEST = 499
"""nginx's number, for the log alone: the client never sees it."""
_WITHOUT_BODY = (204, 304)


class ForwardedResponse(CountedResponse):
    """An instance's answer on its way to the client.

    aiohttp adds ``Server`` and ``Content-Type`` to every answer; :meth:`drop_additions`, called by
    the application's prepare signal, takes out what the instance did not send. ``Date`` stays
    (RFC 9110 6.6.1 wants it from a proxy too).
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._absent = [
            name for name in (hdrs.SERVER, hdrs.CONTENT_TYPE) if name not in self.headers
        ]

    async def send_whole(self, request: web.Request, body: bytes) -> None:
        """Send headers and ``body``, which may be empty, together: one system call."""
        self._send_headers_immediately = False
        await self.prepare(request)
        await self.write_eof(body)

    def drop_additions(self) -> None:
        """Undo what aiohttp added while it prepared the headers."""
        for name in self._absent:
            self.headers.popall(name, None)


class WholeAnswer(ForwardedResponse):
    """An instance's answer, or one that is put together in its manner, with all of its ``body``.

    The length is told where ``headers`` tell one; without, the body goes out in chunks. Of an empty
    body it stays as it is: it may be what an instance told of a HEAD.
    """

    def __init__(self, body: bytes, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.body = body
        self._unsent = b""
        if body and hdrs.CONTENT_LENGTH in self.headers:
            self.headers[hdrs.CONTENT_LENGTH] = str(len(body))

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        if not self.prepared and request.method != hdrs.METH_HEAD:
            self._unsent = b"" if self.status in _WITHOUT_BODY else self.body
        if request.version < HttpVersion11 and hdrs.CONTENT_LENGTH not in self.headers:
            self.force_close()  # the end of the connection is the end of the body
        return await super().prepare(request)

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the body and end the answer; a second call sends nothing.

        There is one: aiohttp prepares and ends whatever a handler returns, also an answer that
        :func:`~comfy_proxy.counted_response.send_if_large` has ended already.
        """
        body, self._unsent = self._unsent, b""
        if len(body) >= LARGE:
            await self.write_in_pieces(body)
            body = b""
        await super().write_eof(body)


def abort(request: web.Request, answer: web.StreamResponse) -> None:
    """Cut the client's connection now; what it has got cannot be taken for the whole answer.

    A body with a length or in chunks is visibly short. One that ends with the connection
    (HTTP/1.0) is not, unless the connection is reset: SO_LINGER 0 makes the kernel do so.
    """
    answer.force_close()
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    if connection is not None and hdrs.CONTENT_LENGTH not in answer.headers:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def gone(request: web.Request) -> web.StreamResponse:
    """What to return when the client has left: aiohttp tries to send it, and sees so too."""
    if request.transport is not None:
        request.transport.abort()
    answer = web.Response(status=CLIENT_CLOSED_REQUEST, reason="Client Closed Request")
    answer.headers["X-Request-ID"] = request[CONTEXT].id
    answer.force_close()
    return answer
