"""A streamed answer that knows how much of its body went out.

aiohttp's ``body_length`` counts headers and the framing of chunks too, and only at the end. An
answer that a handler returns is sent by aiohttp after our middleware has ended, when it can no
longer be seen how much of it a client took before it left.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import hdrs, web

LARGE = 65_536
"""Bytes. A body of this size or more is sent here, in pieces of this size; a smaller one is left to
aiohttp, which sends it in one write."""


class CountedResponse(web.StreamResponse):
    """``sent_bytes`` counts the bytes of the body that were written so far."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sent_bytes = 0

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        await super().write(data)
        self.sent_bytes += len(data)

    async def write_in_pieces(self, body: bytes) -> None:
        """Write ``body`` in pieces, each when there is room for it; others have their turn between
        two of them also where there always is: 10 MB took 10 ms to a client on this machine.

        Raises ConnectionError between two of them if the client has left.
        """
        view = memoryview(body)
        for start in range(0, len(body), LARGE):
            await self.write(view[start : start + LARGE])
            await asyncio.sleep(0)

    async def write_eof(self, data: bytes = b"") -> None:
        await super().write_eof(data)
        self.sent_bytes += len(data)


async def send_if_large(request: web.Request, answer: web.StreamResponse) -> web.StreamResponse:
    """``answer`` itself if its body is small; a large one is sent, and returned with its count.

    Raises ConnectionError if the client leaves meanwhile.
    """
    body = getattr(answer, "body", None)
    if not isinstance(body, bytes) or len(body) < LARGE:
        return answer
    if answer.prepared or request.method == hdrs.METH_HEAD:
        return answer
    if isinstance(answer, CountedResponse):  # it counts by itself, and knows how it is framed
        await answer.prepare(request)
        await answer.write_eof()
        return answer
    counted = CountedResponse(status=answer.status, reason=answer.reason, headers=answer.headers)
    counted.content_length = len(body)
    await counted.prepare(request)
    await counted.write_in_pieces(body)
    await counted.write_eof()
    return counted
