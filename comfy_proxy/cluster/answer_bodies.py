"""Bodies of answers, read as far as a limit: an endless one must not fill memory or disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import aiohttp

from comfy_proxy.bodies import BoundedStream
from comfy_proxy.errors import AnswerTooLargeError

MAX_JSON_BYTES = 64 * 2**20
"""Bytes of an answer that is read whole. A longer one is AnswerTooLargeError, which is no strike:
whoever sends so much works."""
MAX_OBJECT_INFO_BYTES = 1024 * 2**20
"""Bytes of ``/object_info``. It has half a megabyte as a rule, and 50 bytes more for each file in
each folder that a class lists: with many model files more than MAX_JSON_BYTES."""
MAX_SCANNED_BYTES = 4096 * 2**20
"""Bytes of a queue or a history. These are never in memory as a whole: their graphs are stepped
over, or passed on to the client from a temporary file."""
LONG_BYTES = 2**20
"""Bytes of a body from which on it is put together in a thread: 10 MB took 8 ms, in which nobody
else had a turn."""
_BLOCK_BYTES = 65_536

Silence = Callable[[], AbstractAsyncContextManager[Any]]
"""Makes a context manager that raises TimeoutError when the wait inside it takes too long."""


async def pieces(
    response: aiohttp.ClientResponse, limit: int, silence: Silence = nullcontext
) -> AsyncIterator[bytes]:
    """The body as it comes; ``silence()`` bounds the wait for each piece of it.

    Raises AnswerTooLargeError beyond ``limit`` bytes.
    """
    host = f"{response.url.host_subcomponent}:{response.url.port}"
    body = BoundedStream(
        response.content,
        limit,
        lambda: AnswerTooLargeError(f"An answer of {host} is longer than {limit} bytes."),
    )
    while not response.content.at_eof():
        if response.content.is_eof():  # all is here: there is nothing to wait for
            piece = await body.readany()
        else:
            async with silence():
                piece = await body.readany()
        if piece:
            yield piece


async def read(
    response: aiohttp.ClientResponse, limit: int, silence: Silence = nullcontext
) -> bytes:
    """The whole body. Raises as :func:`pieces`."""
    blocks: list[bytes] = []
    block = bytearray()  # pieces may be of one byte each, which would take forty as an object
    async for piece in pieces(response, limit, silence):
        block += piece
        if len(block) >= _BLOCK_BYTES:
            blocks.append(bytes(block))
            block.clear()
    blocks.append(bytes(block))
    if len(blocks) * _BLOCK_BYTES < LONG_BYTES:
        return b"".join(blocks)
    return await asyncio.to_thread(b"".join, blocks)  # it does not hold the interpreter's lock
