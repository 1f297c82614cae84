"""Time as an argument: the system's clock, and the protocol that a test's manual clock implements.

Whatever waits or measures takes a :class:`Clock`, so that tests need not wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any, Protocol


class Timer(Protocol):
    """What was set off by :meth:`Clock.call_later`."""

    def cancel(self) -> None:
        """It is not to go off; nothing happens if it has."""
        ...


class Clock(Protocol):
    """What the package needs of a clock; durations are in seconds."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; only differences mean anything."""
        ...

    def now(self) -> datetime:
        """The wall time, UTC."""
        ...

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[Any]:
        """As :func:`asyncio.timeout`: the body ends with TimeoutError after ``seconds``."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` after ``seconds``, unless the timer is cancelled before."""
        ...


class SystemClock:
    """The machine's own time."""

    monotonic = staticmethod(time.monotonic)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[Any]:
        return asyncio.timeout(seconds)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(seconds, callback)


async def wait_for_event(clock: Clock, event: asyncio.Event, timeout_s: float | None) -> bool:
    """True when ``event`` is set, False when ``timeout_s`` went by before that."""
    try:
        async with clock.timeout(timeout_s):
            return await event.wait()
    except TimeoutError:
        return False


async def wait_until(
    clock: Clock, condition: Callable[[], bool], changed: asyncio.Event, timeout_s: float
) -> bool:
    """True when ``condition()`` holds, False if it does not after ``timeout_s``. It is asked at
    once, and whenever ``changed`` is set."""
    deadline = clock.monotonic() + timeout_s
    while not condition():
        changed.clear()
        left_s = deadline - clock.monotonic()
        if left_s <= 0 or not await wait_for_event(clock, changed, left_s):
            return condition()
    return True


async def sleep(clock: Clock, seconds: float) -> None:
    """Sleep on ``clock``; nothing wakes it early."""
    await wait_for_event(clock, asyncio.Event(), seconds)


def iso(moment: datetime | None) -> str | None:
    """``moment`` as our answers write times (``2026-11-23T22:13:12.452Z``); None stays None."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
