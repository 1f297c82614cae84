"""The last hour, minute by minute: rates of ``/metrics`` and plots of the dashboard are made of it.

A minute is one of the monotonic clock, so a jump of the wall clock puts nothing out of order.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from comfy_proxy.clock import Clock
from comfy_proxy.metrics.durations import rounded

MINUTES = 60
_MINUTE_S = 60


@dataclass(kw_only=True, slots=True)
class Minute:
    """What ended within one minute; ``index`` is its number on the monotonic clock.

    ``waited`` and ``processed`` count the jobs whose seconds are in the sums. ``errors`` are failed
    jobs by code, ``faults`` requests answered with 5xx. ``prompts`` are clients' prompts that were
    forwarded in it.
    """

    index: int
    began_at: datetime
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    waited: int = 0
    waiting_s: float = 0.0
    processed: int = 0
    processing_s: float = 0.0
    prompts: int = 0
    prompts_completed: int = 0
    prompts_failed: int = 0
    requests: int = 0
    faults: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def waiting_mean_s(self) -> float | None:
        """Mean wait in seconds; None if no job ended that ComfyUI had begun."""
        return rounded(self.waiting_s / self.waited) if self.waited else None

    @property
    def processing_mean_s(self) -> float | None:
        """Mean processing time of completed jobs in seconds; None if there was none."""
        return rounded(self.processing_s / self.processed) if self.processed else None


_SUMMED = tuple(Minute.__dataclass_fields__.keys() - {"index", "began_at", "errors"})


class LastHour:
    """The current minute and the 59 before it; minutes in which nothing happened take no room."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._minutes: deque[Minute] = deque(maxlen=MINUTES)

    def __repr__(self) -> str:
        return f"<LastHour {len(self._minutes)} minutes>"

    @property
    def current(self) -> Minute:
        """The minute of now; callers add to it."""
        now = self._clock.monotonic()
        index = int(now // _MINUTE_S)
        if not self._minutes or self._minutes[-1].index != index:
            began_at = self._clock.now() - timedelta(seconds=now - index * _MINUTE_S)
            self._minutes.append(Minute(index=index, began_at=began_at))
        return self._minutes[-1]

    def minutes(self) -> list[Minute]:
        """All sixty, oldest first; the last one is not over yet."""
        current = self.current
        known = {minute.index: minute for minute in self._minutes}
        return [
            known.get(current.index - ago)
            or Minute(
                index=current.index - ago,
                began_at=current.began_at - timedelta(seconds=ago * _MINUTE_S),
            )
            for ago in reversed(range(MINUTES))
        ]

    def total(self) -> Minute:
        """The sum of all sixty; ``began_at`` is the beginning of the oldest with anything in it."""
        current = self.current
        first = current.index - MINUTES + 1
        recent = [minute for minute in self._minutes if minute.index >= first]
        errors: Counter[str] = Counter()
        for minute in recent:
            errors.update(minute.errors)
        sums: dict[str, Any] = {
            name: sum(getattr(minute, name) for minute in recent) for name in _SUMMED
        }
        return Minute(index=first, began_at=recent[0].began_at, errors=errors, **sums)
