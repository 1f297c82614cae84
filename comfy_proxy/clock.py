"""Time as an argument: the system's clock, and the protocol that a manual clock of a test fills."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the package asks of time; durations in seconds."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; only differences mean anything."""
        ...

    def now(self) -> datetime:
        """The wall time, UTC."""
        ...

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        """True when ``event`` is set, False when ``timeout_s`` went by before that."""
        ...


class SystemClock:
    """The machine's own time."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                return await event.wait()
        except TimeoutError:
            return False


async def sleep(clock: Clock, seconds: float) -> None:
    """Sleep on ``clock``; nothing wakes it early."""
    await clock.wait(asyncio.Event(), seconds)


def iso(moment: datetime | None) -> str | None:
    """ISO 8601 UTC with milliseconds, as the contract writes times; None stays None."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
