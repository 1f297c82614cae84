"""A streamed answer that knows how much of its body went out.

aiohttp's ``body_length`` counts headers and the framing of chunks too, and only at the end; what a
handler returns it sends when nobody looks any more.
"""

from __future__ import annotations

from typing import Any

from aiohttp import hdrs, web

LARGE = 65_536
"""Bytes of a body from which on it is sent in pieces of so many."""


class CountedResponse(web.StreamResponse):
    """``sent_bytes`` are those of the body that were written so far."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sent_bytes = 0

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        await super().write(data)
        self.sent_bytes += len(data)

    async def write_in_pieces(self, body: bytes) -> None:
        """The next one when there is room for it: a client that leaves is noticed in between."""
        view = memoryview(body)
        for start in range(0, len(body), LARGE):
            await self.write(view[start : start + LARGE])

    async def write_eof(self, data: bytes = b"") -> None:
        await super().write_eof(data)
        self.sent_bytes += len(data)


async def send_if_large(request: web.Request, answer: web.StreamResponse) -> web.StreamResponse:
    """``answer``; if its body is large it was sent, and what is returned has counted it.

    Raises ConnectionError if the client leaves meanwhile.
    """
    body = getattr(answer, "body", None)
    if not isinstance(body, bytes) or len(body) < LARGE:
        return answer
    if answer.prepared or request.method == hdrs.METH_HEAD:
        return answer
    if isinstance(answer, CountedResponse):
        await answer.prepare(request)
        await answer.write_eof()
        return answer
    counted = CountedResponse(status=answer.status, reason=answer.reason, headers=answer.headers)
    counted.content_length = len(body)
    await counted.prepare(request)
    await counted.write_in_pieces(body)
    await counted.write_eof()
    return counted
