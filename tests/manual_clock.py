"""A clock that only moves when a test moves it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class ManualClock:
    """Fills ``comfy_proxy.clock.Clock``. :meth:`advance` runs out the timeouts that are due."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._timeouts: set[_ManualTimeout | _ManualTimer] = set()

    def monotonic(self) -> float:
        return self._now

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self._now)

    def timeout(self, seconds: float | None) -> _ManualTimeout:
        return _ManualTimeout(self, seconds)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> _ManualTimer:
        return _ManualTimer(self, seconds, callback)

    @property
    def waiting(self) -> int:
        """How many timeouts are running: what would wake somebody by time alone."""
        return len(self._timeouts)

    async def advance(self, seconds: float) -> None:
        """Move on in steps, from one due timeout to the next, and let the woken ones run."""
        await settle()
        end = self._now + seconds
        while due := [t for t in self._timeouts if t.deadline <= end]:
            first = min(due, key=lambda timeout: timeout.deadline)
            self._now = max(self._now, first.deadline)
            first.expire()
            await settle()
        self._now = end
        await settle()


class _ManualTimeout:
    def __init__(self, clock: ManualClock, seconds: float | None) -> None:
        self._clock = clock
        self.deadline = float("inf") if seconds is None else clock.monotonic() + seconds
        self._timeout = asyncio.timeout(None)

    def expire(self) -> None:
        self._clock._timeouts.discard(self)
        self._timeout.reschedule(asyncio.get_running_loop().time())

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self._clock._timeouts.add(self)
        if self.deadline <= self._clock.monotonic():
            self.expire()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        self._clock._timeouts.discard(self)
        return await self._timeout.__aexit__(kind, error, trace)


class _ManualTimer:
    def __init__(self, clock: ManualClock, seconds: float, callback: Callable[[], None]) -> None:
        self._clock = clock
        self._callback = callback
        self.deadline = clock.monotonic() + seconds
        clock._timeouts.add(self)

    def expire(self) -> None:
        self.cancel()
        self._callback()

    def cancel(self) -> None:
        self._clock._timeouts.discard(self)


async def settle(rounds: int = 20) -> None:
    """Let everything that can run without time or network run."""
    for _ in range(rounds):
        await asyncio.sleep(0)
