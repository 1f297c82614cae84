"""Whether an instance answers what it has answered before, told without reading either."""

from __future__ import annotations

import asyncio
import hashlib

_LONG_BYTES = 2**20
"""The digest of a body of that many bytes or more is made in a thread, without the interpreter's
lock: it takes 1.4 ms a megabyte."""


async def digest_of(body: bytes) -> bytes:
    """The same for the same bytes alone."""
    if len(body) < _LONG_BYTES:
        return _digest(body)
    return await asyncio.to_thread(_digest, body)


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=32).digest()
