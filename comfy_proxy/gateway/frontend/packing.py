"""Bodies are read from an instance and packed: once, however many clients wait for it."""

from __future__ import annotations

import asyncio

import aiohttp

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.exchange.blame import told_apart
from comfy_proxy.gateway.frontend.budget import Budget
from comfy_proxy.gateway.frontend.codings import CODINGS
from comfy_proxy.gateway.frontend.kept import Key

MAX_BODIES_BYTES = 64 * 2**20
"""Of bodies that are read or packed at a time; who comes then waits for one of them to end."""
MAX_THREADS = 2
"""That pack at a time. They share the executor with all else that is done in threads."""
STALL_S = 10.0
"""Seconds without a byte in the middle of a body, after which it counts as not answered: another
instance is asked. The hang watch is quicker where an instance answers nothing at all."""


class Packing:
    """One for each gateway. ``packed`` counts the bodies that were packed so far."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.budget = Budget(MAX_BODIES_BYTES)
        self._threads = asyncio.Semaphore(MAX_THREADS)
        self._under_way: dict[tuple[Instance, Key], asyncio.Task[bytes]] = {}
        self.packed = 0

    async def read(self, upstream: aiohttp.ClientResponse, instance: Instance) -> bytes:
        """All of the answer's body, which is then ended. Raises InstanceError."""
        pieces: list[bytes] = []
        try:
            with told_apart(instance):
                while True:
                    async with self._clock.timeout(STALL_S):
                        piece = await upstream.content.readany()
                    if not piece:
                        return b"".join(pieces)
                    pieces.append(piece)
        finally:
            upstream.close()  # a finished answer has given its connection back already

    async def once(
        self, key: Key, instance: Instance, source: aiohttp.ClientResponse | bytes, size: int
    ) -> bytes:
        """A body of ``size`` bytes, packed in the coding of ``key``: ``source``, or what is to be
        read of it. An answer is ended in any case.

        Who asks for the same while it is under way gets the same, and its answer is not read. It
        goes on when a client leaves. Another instance's is apart: this one may hang. Raises
        InstanceError if the body does not come whole.
        """
        place = (instance, key)
        task = self._under_way.get(place)
        if task is None:
            task = asyncio.create_task(self._pack(key.coding, instance, source, size))
            self._under_way[place] = task
            task.add_done_callback(lambda done: self._done(place, done))
        elif not isinstance(source, bytes):
            source.close()
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End what is under way."""
        tasks = tuple(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _pack(
        self, coding: str, instance: Instance, source: aiohttp.ClientResponse | bytes, size: int
    ) -> bytes:
        async with self.budget.take(size):
            body = source if isinstance(source, bytes) else await self.read(source, instance)
            async with self._threads:
                packed = await asyncio.to_thread(CODINGS[coding], body)
        self.packed += 1
        return packed

    def _done(self, place: tuple[Instance, Key], task: asyncio.Task[bytes]) -> None:
        del self._under_way[place]
        if not task.cancelled():
            task.exception()  # whoever still waits is told; perhaps nobody does
