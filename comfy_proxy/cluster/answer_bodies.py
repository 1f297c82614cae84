"""Bodies of answers, read as far as a limit: an endless one must not fill memory or disk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import aiohttp

from comfy_proxy.errors import AnswerTooLargeError

MAX_JSON_BYTES = 64 * 2**20
"""Of an answer that is read whole. A longer one is AnswerTooLargeError, never a strike."""
MAX_OBJECT_INFO_BYTES = 1024 * 2**20
"""Half a megabyte as a rule, and 50 bytes for each file in the folders that classes list."""
MAX_SCANNED_BYTES = 4096 * 2**20
"""Of a queue or history: their graphs are stepped over, or passed on from a temporary file."""

Silence = Callable[[], AbstractAsyncContextManager[Any]]


async def pieces(
    response: aiohttp.ClientResponse, limit: int, silence: Silence = nullcontext
) -> AsyncIterator[bytes]:
    """The body as it comes; ``silence()`` bounds the wait for each piece of it.

    Raises AnswerTooLargeError beyond ``limit`` bytes.
    """
    size = 0
    while True:
        async with silence():
            piece = await response.content.readany()
        if not piece:
            return
        size += len(piece)
        if size > limit:
            raise AnswerTooLargeError(
                f"An answer of {response.url.host} is longer than {limit} bytes."
            )
        yield piece


async def read(
    response: aiohttp.ClientResponse, limit: int, silence: Silence = nullcontext
) -> bytes:
    """The whole body. Raises as :func:`pieces`."""
    body = bytearray()
    async for piece in pieces(response, limit, silence):
        body += piece
    return bytes(body)
