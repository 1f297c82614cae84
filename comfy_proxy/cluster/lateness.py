"""For how long our own event loop stood still while something was waited for."""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

from comfy_proxy.clock import Clock, Timer

TICKS: Final = 6
"""The wait is cut into so many timers. By how much each fires late is time in which our event loop
did something else, and read no answer."""


class Lateness:
    """To be entered around a wait of about ``timeout_s`` seconds; :meth:`seconds` is the sum of all
    delays in it."""

    def __init__(self, clock: Clock, timeout_s: float) -> None:
        self._clock = clock
        self._step_s = timeout_s / TICKS
        self._late_s = 0.0
        self._due = 0.0
        self._timer: Timer | None = None

    def seconds(self) -> float:
        """Seconds that the loop stood still up to now, those of a timer that is overdue
        included."""
        return self._late_s + max(0.0, self._clock.monotonic() - self._due)

    def __enter__(self) -> Self:
        self._set()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _set(self) -> None:
        self._due = self._clock.monotonic() + self._step_s
        self._timer = self._clock.call_later(self._step_s, self._tick)

    def _tick(self) -> None:
        self._late_s = self.seconds()
        self._set()
