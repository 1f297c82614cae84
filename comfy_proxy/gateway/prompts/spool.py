"""The bodies of prompts that have not ended: in memory, or in temporary files when they are many.

A prompt is submitted again with its body when its instance dies, so as long as it lives its body
must not be forgotten. A thousand graphs of the web frontend are some 80 MB, a graph with pictures
in it is 10 MB.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from loguru import logger

from comfy_proxy.errors import PromptLostError, UnavailableError
from comfy_proxy.gateway.prompts.posted import read_again
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.prompt import ClientPost, Prompt
from comfy_proxy.stored_bytes import StoredBytes

MAX_MEMORY_BYTES = 32 * 2**20
"""All bodies may take so much memory; beyond it those of the oldest prompts go to files. A parsed
graph takes some five times as much memory as its text, and goes with it."""
_SLICE_BYTES = 2**20  # of a body that is written at once


class PromptSpool:
    """Holds the bodies of accepted prompts of clients until they end.

    A prompt in a file has an empty ``body`` and ``graph`` in its ``post``; :meth:`holding` brings
    them back.
    """

    def __init__(self, limit: int = MAX_MEMORY_BYTES) -> None:
        self._limit = limit
        self._bytes = 0
        self._in_memory: OrderedDict[Prompt, int] = OrderedDict()
        self._held: dict[Prompt, int] = {}  # by how many; they go to no file
        self._stored: dict[Prompt, StoredBytes] = {}
        self._storing: dict[Prompt, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<PromptSpool {self._bytes} B in memory, {len(self._stored)} prompts in files>"

    def observe(self, change: Change) -> None:
        """An observer of the ledger."""
        if change.is_end:
            self._forget(change.prompt)
        elif change.is_acceptance and len(change.prompt.attempts) == 1:  # a moved one is here
            self._add(change.prompt)

    def _add(self, prompt: Prompt) -> None:
        """``prompt``, whose body is in memory, lives."""
        if prompt.post is None:
            return
        self._in_memory[prompt] = len(prompt.post.body)
        self._bytes += len(prompt.post.body)
        while self._bytes > self._limit and len(self._in_memory) > 1:
            oldest, size = self._in_memory.popitem(last=False)
            self._bytes -= size
            if oldest.post is not None:
                self._storing[oldest] = asyncio.create_task(
                    self._store(oldest, oldest.post), name="spool a prompt"
                )

    def _forget(self, prompt: Prompt) -> None:
        """It has ended."""
        self._bytes -= self._in_memory.pop(prompt, 0)
        self._held.pop(prompt, None)
        if (task := self._storing.pop(prompt, None)) is not None:
            task.cancel()
        if (stored := self._stored.pop(prompt, None)) is not None:
            stored.close()

    @asynccontextmanager
    async def holding(self, prompt: Prompt) -> AsyncIterator[None]:
        """Its ``body`` and ``graph`` are there and stay, however many others come meanwhile.

        Raises PromptLostError if its file is gone: somebody has tidied the temporary directory, or
        it has just ended.
        """
        while not await self._brought_back(prompt):
            pass
        if prompt in self._held or self._take_out(prompt):
            self._held[prompt] = self._held.get(prompt, 0) + 1
        try:
            yield
        finally:
            self._release(prompt)

    async def body(self, prompt: Prompt) -> bytes:
        """Its body for one look, which changes nothing; empty if it is not there any more."""
        if prompt.post is not None and prompt.post.body:
            return prompt.post.body
        stored = self._stored.get(prompt)
        try:
            return b"" if stored is None else await stored.read()
        except OSError:  # somebody has tidied the temporary directory, or it has just ended
            return b""

    async def _brought_back(self, prompt: Prompt) -> bool:
        """False if somebody else has brought it back meanwhile, and it is to be looked for anew."""
        while (task := self._storing.get(prompt)) is not None:
            await asyncio.wait([task])
        stored = self._stored.get(prompt)
        if stored is None or prompt.post is None:
            return True
        try:
            restored = await _restored(stored, prompt.post.charset)
        except PromptLostError:
            known = prompt in self._held or prompt in self._in_memory or prompt in self._storing
            if known or self._stored.get(prompt, stored) is not stored:
                return False
            raise
        prompt.post.body, prompt.post.graph = restored
        return True

    def _take_out(self, prompt: Prompt) -> bool:
        """It is counted nowhere from now on. False if it was not, because it has ended."""
        if (stored := self._stored.pop(prompt, None)) is not None:
            stored.close()
        size = self._in_memory.pop(prompt, None)
        self._bytes -= size or 0
        return stored is not None or size is not None

    def _release(self, prompt: Prompt) -> None:
        holders = self._held.get(prompt)
        if holders == 1:
            del self._held[prompt]
            self._add(prompt)
        elif holders is not None:
            self._held[prompt] = holders - 1

    async def close(self) -> None:
        """Remove the files."""
        tasks = tuple(self._storing.values())
        for prompt in (*self._in_memory, *self._held, *self._storing, *self._stored):
            self._forget(prompt)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _store(self, prompt: Prompt, post: ClientPost) -> None:
        stored = StoredBytes(memory_bytes=0, hashed=False)
        try:
            body = memoryview(post.body)
            for at in range(0, len(body), _SLICE_BYTES):
                await stored.write(body[at : at + _SLICE_BYTES])
            await stored.finish()
        except UnavailableError as error:  # a full disk: it stays in memory, over the limit
            logger.warning("prompt {} is kept in memory: {}", prompt.prompt_id, error.message)
        except BaseException:
            stored.close()
            raise
        else:
            self._stored[prompt] = stored
            post.body, post.graph = b"", {}
        finally:
            self._storing.pop(prompt, None)


async def _restored(stored: StoredBytes, charset: str) -> tuple[bytes, dict[str, Any]]:
    try:
        body, document = await asyncio.to_thread(_read, stored, charset)
    except OSError as error:
        raise PromptLostError(f"The prompt was stored and cannot be read: {error}") from error
    return body, document["prompt"]


def _read(stored: StoredBytes, charset: str) -> tuple[bytes, dict[str, Any]]:
    with stored.open() as file:
        body, document = read_again(file, charset)
    if document is None:
        raise OSError("The stored prompt is not what was stored.")
    return body, document
