"""The exchanges with one instance that are under way."""

from __future__ import annotations

import asyncio

from comfy_proxy.clock import Clock, wait_until


class Exchanges:
    """Counts requests until their answers have ended. A WebSocket counts during its handshake only:
    it stays open for as long as a client likes."""

    def __init__(self) -> None:
        self.count = 0
        self._ended = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Exchanges {self.count}>"

    def begun(self) -> None:
        """An exchange begins."""
        self.count += 1

    def ended(self) -> None:
        """An exchange has ended."""
        self.count -= 1
        self._ended.set()

    async def over(self, clock: Clock, timeout_s: float) -> bool:
        """Return when none is under way; False after ``timeout_s``."""
        return await wait_until(clock, lambda: not self.count, self._ended, timeout_s)
