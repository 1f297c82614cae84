"""A streamed answer that knows how much of its body went out.

aiohttp's ``body_length`` counts headers and the framing of chunks too, and only at the end.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web


class CountedResponse(web.StreamResponse):
    """``sent_bytes`` are those of the body that were written so far."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sent_bytes = 0

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        await super().write(data)
        self.sent_bytes += len(data)

    async def write_eof(self, data: bytes = b"") -> None:
        await super().write_eof(data)
        self.sent_bytes += len(data)
