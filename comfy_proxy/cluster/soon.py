"""Work that many events ask for, and that is done once for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from loguru import logger

from comfy_proxy.clock import Clock, sleep
from comfy_proxy.tracing import untraced


class Soon:
    """Does ``work`` right after the event that asks for it, but ``interval_s`` after the last time
    at the earliest: once for all who ask meanwhile. Who asks while it is done, or after it, has it
    done once more. A fault of it is logged."""

    def __init__(self, work: Callable[[], None], *, clock: Clock, interval_s: float) -> None:
        self._work = work
        self._clock = clock
        self._interval_s = interval_s
        self._next_at = 0.0
        self._asked = False
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """There is a reason to do it; none any more once this was closed."""
        if self._closed:
            return
        self._asked = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="do it soon", context=untraced())

    async def close(self) -> None:
        """Drop what was asked for and not done."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while self._asked:
            await sleep_until(self._clock, self._next_at)
            self._asked = False
            self._next_at = self._clock.monotonic() + self._interval_s
            try:
                self._work()
            except Exception as error:
                logger.opt(exception=error).error("what was to be done soon broke")


async def sleep_until(clock: Clock, moment: float) -> None:
    """Return at ``moment`` (monotonic seconds), at once if that is over."""
    left_s = moment - clock.monotonic()
    if left_s > 0:
        await sleep(clock, left_s)
