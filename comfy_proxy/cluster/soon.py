"""Work that many events ask for, and that is done once for all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from loguru import logger

from comfy_proxy.clock import Clock, sleep
from comfy_proxy.tracing import untraced

PAUSE_TIMES: Final = 9
"""A pause after work is so many times as long as the work itself: it takes a tenth of the time."""
SHORTEST_PAUSE_S: Final = 0.01
"""Seconds; no pause is made that would be shorter. Work on a few instances never pauses, so nothing
waits there for what it finds; on 300 it takes some 10 ms, and the events of 90 ms share one."""


class Pace:
    """How soon work may be done again. ``cpu_s`` tells the CPU seconds of this thread."""

    def __init__(self, clock: Clock, cpu_s: Callable[[], float] = time.thread_time) -> None:
        self._clock = clock
        self._cpu_s = cpu_s
        self._next_at = 0.0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """The work is done inside the block, which awaits nothing."""
        begun = self._cpu_s()
        try:
            yield
        finally:
            pause_s = PAUSE_TIMES * (self._cpu_s() - begun)
            if pause_s >= SHORTEST_PAUSE_S:
                self._next_at = max(self._next_at, self._clock.monotonic() + pause_s)

    async def wait(self) -> None:
        """Return when the pause is over."""
        left_s = self._next_at - self._clock.monotonic()
        if left_s > 0:
            await sleep(self._clock, left_s)


class Soon:
    """Does ``work`` right after the event that asks for it, at the ``pace`` that it can afford:
    once for all who ask meanwhile. Who asks while it is done, or after it, has it done once more. A
    fault of it is logged."""

    def __init__(self, work: Callable[[], None], pace: Pace) -> None:
        self._work = work
        self._pace = pace
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
            await self._pace.wait()
            self._asked = False
            try:
                with self._pace.measured():
                    self._work()
            except Exception as error:
                logger.opt(exception=error).error("what was to be done soon broke")
