"""The exchanges with one instance that are under way."""

from __future__ import annotations

import asyncio

from comfy_proxy.clock import Clock, wait_for_event


class Exchanges:
    """Counts them; an open WebSocket is none, its handshake is."""

    def __init__(self) -> None:
        self.count = 0
        self._ended = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Exchanges {self.count}>"

    def begun(self) -> None:
        """One more."""
        self.count += 1

    def ended(self) -> None:
        """One of them is over."""
        self.count -= 1
        self._ended.set()

    async def over(self, clock: Clock, timeout_s: float) -> bool:
        """Return when none is under way; False after ``timeout_s``."""
        deadline = clock.monotonic() + timeout_s
        while self.count:
            self._ended.clear()
            left_s = deadline - clock.monotonic()
            if left_s <= 0 or not await wait_for_event(clock, self._ended, left_s):
                return not self.count
        return True
