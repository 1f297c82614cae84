"""One prompt after the other is given its place among those that wait at an instance.

A place between two prompts is a number between theirs, and an instance tells a prompt's number only
in its answer: so whoever wants such a place waits until the prompts before it are answered for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.roster import ByInstance

MAX_WAIT_S = 1.0
"""Seconds that a prompt waits for its turn. Beyond it it is sent without, to the end of the queue:
the one before may be large, or its instance silent."""


class Turns:
    """A turn at each instance."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._locks = ByInstance(lambda instance: asyncio.Lock())

    @asynccontextmanager
    async def turn(self, instance: Instance, *, wanted: bool) -> AsyncIterator[bool]:
        """True inside the block if it is the caller's turn at ``instance``; False if it was not
        ``wanted``, or did not come within ``MAX_WAIT_S``."""
        lock = self._locks[instance]
        has_turn = wanted and await self._acquire(lock)
        try:
            yield has_turn
        finally:
            if has_turn:
                lock.release()

    async def _acquire(self, lock: asyncio.Lock) -> bool:
        try:
            async with self._clock.timeout(MAX_WAIT_S):
                return await lock.acquire()
        except TimeoutError:
            return False
