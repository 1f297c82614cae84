"""By how much this event loop is late, always measured; and, at debug, who holds it up.

While the loop stands still nobody is answered. A timer is due every TICK_S; by how much it fires
late is for how long the loop did something else, or nothing at all.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Final

from loguru import logger

from comfy_proxy.metrics.durations import Histogram

TICK_S: Final = 0.01
"""Seconds from one tick to the next. What stands still for less may be missed; a hundred ticks a
second take a thousandth of one core."""
STALL_S: Final = 0.1
"""Seconds by which a tick is late when the stack of whoever holds up the loop is logged, once for
each time, at debug."""
RECENT_S: Final = 60.0
"""Seconds for which the worst lag is told in ``/health``."""
BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds of the histogram, in seconds."""
_SLOT_S: Final = 5.0


class LoopWatch:
    """Measures between :meth:`start` and :meth:`close`. ``lags`` counts the ticks by their lag.

    ``is_debug`` tells whether stacks are wanted now; they are taken by a thread, which is there
    only then. ``time_s`` is monotonic, in seconds.
    """

    def __init__(
        self, is_debug: Callable[[], bool], time_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.lags = Histogram(BOUNDS_S)
        self.due_s = 0.0
        self._is_debug = is_debug
        self._time_s = time_s
        self._worst: deque[tuple[float, float]] = deque()  # when a slot began, and its worst lag
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stacks: StackLog | None = None

    def start(self) -> None:
        """Begin, in the event loop that is to be watched."""
        self._loop = asyncio.get_running_loop()
        self._set()

    def close(self) -> None:
        """Measure no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._log_stacks(False)

    def worst_s(self) -> float:
        """The worst lag of the last RECENT_S, in seconds, that of a tick which is late now
        included."""
        now = self._time_s()
        late_s = now - self.due_s if self._timer is not None else 0.0
        recent = (lag_s for at, lag_s in self._worst if now - at < RECENT_S)
        return max(late_s, *recent, 0.0)

    def tick(self) -> None:
        """A tick was due at ``due_s``, and here it is."""
        now = self._time_s()
        lag_s = max(0.0, now - self.due_s)
        self.lags.record(lag_s)
        if not self._worst or now - self._worst[-1][0] >= _SLOT_S:
            self._worst.append((now, lag_s))
            while now - self._worst[0][0] >= RECENT_S:
                self._worst.popleft()
        elif lag_s > self._worst[-1][1]:
            self._worst[-1] = self._worst[-1][0], lag_s
        self._set()
        self._log_stacks(self._is_debug())

    def _set(self) -> None:
        assert self._loop is not None
        self.due_s = self._time_s() + TICK_S
        self._timer = self._loop.call_later(TICK_S, self.tick)

    def _log_stacks(self, wanted: bool) -> None:
        if wanted and self._stacks is None:
            self._stacks = StackLog(lambda: (self.due_s, self._time_s() - self.due_s))
        elif not wanted and self._stacks is not None:
            self._stacks.stop()
            self._stacks = None


class StackLog:
    """A thread that logs the stack of the one that made this, whenever that one is late by STALL_S.

    ``late`` tells when it was due and by how many seconds it is late now.
    """

    def __init__(self, late: Callable[[], tuple[float, float]]) -> None:
        self._late = late
        self._watched = threading.get_ident()
        self._stopping = threading.Event()
        run = contextvars.copy_context().run  # its lines belong to this application's log
        self._thread = threading.Thread(
            target=run, args=[self._run], name="comfy-proxy-stacks", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End the thread, without waiting for that."""
        self._stopping.set()

    def _run(self) -> None:
        told = None
        while not self._stopping.wait(STALL_S / 2):
            due, late_s = self._late()
            if late_s < STALL_S or due == told:
                continue
            told = due
            frame = sys._current_frames().get(self._watched)
            stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
            logger.debug("the event loop stands still since {:.2f} s:\n{}", late_s, stack)
