"""The ``priority`` of a job as its place in ComfyUI's own order. No I/O.

ComfyUI runs the prompt with the lowest ``number`` first, and counts 0, 1, 2… for those that bring
none. So a job with a priority above 0 gets a negative number, and is ahead of all that have none;
one below 0 gets a number that no count reaches, and runs when nothing else waits. Among jobs of one
priority the one that came first is first. The number is the instance's own order: it holds for
prompts that came otherwise too, goes along when a prompt moves to another instance, and outlives a
restart of the proxy.
"""

from __future__ import annotations

from typing import Final

from comfy_proxy.clock import Clock

LIMIT: Final = 1_000_000
"""Priorities go from minus this to this."""
_LAST: Final = 10_000_000.0
"""Above what an instance counts in its life, and so low that TICK is told apart there."""
_TICKS: Final = 100_000_000
"""So many hundredths of a second (11 days) have a place of their own within one priority."""


class Priorities:
    """Gives numbers; each one within a priority is higher than the one before."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tick = 0

    def number(self, priority: int) -> float | None:
        """The number for ``priority``; None for 0: the instance counts."""
        if priority == 0:
            return None
        self._tick = max(self._tick + 1, int(self._clock.now().timestamp() * 100))
        within = (self._tick % _TICKS) / _TICKS
        return (_LAST if priority < 0 else 0.0) - priority - 1.0 + within
