"""The body of a client's ``POST /prompt``: taken in, read, and held in memory while it is sent.

Large ones go to a temporary file as they come in, and few are in memory at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, BinaryIO, Final

from comfy_proxy.bodies import ClientBody
from comfy_proxy.errors import UnavailableError
from comfy_proxy.gateway.prompts import prompt_body
from comfy_proxy.gateway.prompts.large_prompt import LARGE_BYTES, outline
from comfy_proxy.stored_bytes import StoredBytes

MAX_LARGE_IN_MEMORY: Final = 2
"""Large bodies that are in memory at once, each until an instance has taken it; the next ones wait
in their files."""


class PostedPrompts:
    """Reads bodies. One large one at a time is looked through: more threads would only take the
    event loop's turns."""

    def __init__(self) -> None:
        self._scanning = asyncio.Semaphore(1)
        self._in_memory = asyncio.Semaphore(MAX_LARGE_IN_MEMORY)

    @asynccontextmanager
    async def taken_in(
        self, content: ClientBody, charset: str
    ) -> AsyncIterator[tuple[bytes, dict[str, Any] | None]]:
        """All of the body and its JSON object, None if we cannot read that; of a large one with
        ``null`` for what is large in it. Both to be let go of at the end of the block.

        Raises as ClientBody, and UnavailableError if the disk takes no large one.
        """
        stored = StoredBytes(memory_bytes=LARGE_BYTES, hashed=False)
        try:
            async for piece in content:
                await stored.write(piece)
            await stored.finish()
            if stored.in_memory:
                body = await stored.read()
                yield body, prompt_body.document(body, charset)
                return
            document = await self._outline(stored, charset)
            async with self._in_memory:
                body = await _again(stored)
                stored.close()
                yield body, document
        finally:
            stored.close()

    async def _outline(self, stored: StoredBytes, charset: str) -> dict[str, Any] | None:
        if not prompt_body.is_utf_8(charset):
            return None
        async with self._scanning:
            return await asyncio.to_thread(_outline, stored)


async def _again(stored: StoredBytes) -> bytes:
    try:
        return await stored.read()
    except OSError as error:  # somebody has tidied the temporary directory
        message = "The body cannot be read back at the moment."
        raise UnavailableError(message, code="storage_unavailable") from error


def _outline(stored: StoredBytes) -> dict[str, Any] | None:
    try:
        with stored.open() as file:
            return outline(file)
    except OSError:
        return None


def read_again(file: BinaryIO, charset: str) -> tuple[bytes, dict[str, Any] | None]:
    """A body that was accepted, and its JSON object as at first; for a thread."""
    body = file.read()
    if len(body) <= LARGE_BYTES or not prompt_body.is_utf_8(charset):
        return body, prompt_body.document(body, charset)
    file.seek(0)
    return body, outline(file)
