"""A number of bytes that may be in memory at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Budget:
    """Lets in who still fits into ``limit`` bytes, and a larger one alone; others wait."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._given_back = asyncio.Event()
        self.taken = 0

    @asynccontextmanager
    async def take(self, size: int) -> AsyncIterator[None]:
        """``size`` bytes, for as long as the block lasts."""
        while self.taken and self.taken + size > self._limit:
            self._given_back.clear()
            await self._given_back.wait()
        self.taken += size
        try:
            yield
        finally:
            self.taken -= size
            self._given_back.set()
