"""The body of a client's ``POST /prompt``: taken in, read, and held in memory while it is sent.

Large ones go to a temporary file as they come in, and few are in memory at once.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, BinaryIO, Final

from comfy_proxy.bodies import ClientBody
from comfy_proxy.errors import UnavailableError
from comfy_proxy.full_collections import NoFullCollection
from comfy_proxy.gateway.prompts import prompt_body
from comfy_proxy.gateway.prompts.large_prompt import LARGE_BYTES, outline
from comfy_proxy.gateway.prompts.prompt_nesting import PromptNesting
from comfy_proxy.stored_bytes import StoredBytes

QUIET_BYTES: Final = 256 * 2**10
"""Bytes of a body (256 KiB). From a longer one on there is no full garbage collection while it is
answered; a graph is many more objects for its bytes than a history, so it is less than
full_collections.QUIET_BYTES."""
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
        ``null`` for what is large in it, and with an id if it is a prompt that has none. Both to be
        let go of at the end of the block.

        Raises as ClientBody, RequestError if it is nested too deeply, and UnavailableError if the
        disk takes no large one.
        """
        stored, quiet = StoredBytes(memory_bytes=LARGE_BYTES, hashed=False), None
        nesting = PromptNesting(charset)
        try:
            async for piece in content:
                nesting.check(piece)
                await stored.write(piece)
            await stored.finish()
            quiet = NoFullCollection() if stored.size > QUIET_BYTES else None
            if stored.in_memory:
                body = await stored.read()
                yield body, prompt_body.document(body, charset)
                return
            document = await self._outline(stored, charset)
            added = b""
            if document is not None and "prompt_id" not in document:
                document, added = _with_id(document)
            async with self._in_memory:
                body = await _again(stored, added)
                stored.close()
                yield body, document
        finally:
            stored.close()
            del quiet

    async def _outline(self, stored: StoredBytes, charset: str) -> dict[str, Any] | None:
        if not prompt_body.is_utf_8(charset):
            return None
        async with self._scanning:
            return await asyncio.to_thread(_outline, stored)


def _with_id(document: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """``document`` with a new id, and the bytes to insert after the first bracket of its text, so
    that it says the same. If it is no prompt ``document`` as it is, and no bytes."""
    if not isinstance(document.get("prompt"), dict):
        return document, b""
    prompt_id = str(uuid.uuid4())
    return {"prompt_id": prompt_id, **document}, b'"prompt_id": "%s", ' % prompt_id.encode()


async def _again(stored: StoredBytes, added: bytes) -> bytes:
    try:
        return await asyncio.to_thread(_read_with, stored, added)
    except OSError as error:  # somebody has tidied the temporary directory
        message = "The body cannot be read back at the moment."
        raise UnavailableError(message, code="storage_unavailable") from error


def _read_with(stored: StoredBytes, added: bytes) -> bytes:
    """The bytes with ``added`` after the first bracket. They are read in two parts and joined,
    which does not hold the interpreter's lock; to slice 95 MB holds it for 70 ms."""
    with stored.open() as file:
        if not added:
            return file.read()
        at = file.read(LARGE_BYTES).find(b"{") + 1
        file.seek(0)
        if not at:  # a megabyte of blanks
            body = file.read()
            at = body.index(b"{") + 1
            return b"".join((body[:at], added, body[at:]))
        return b"".join((file.read(at), added, file.read()))


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
