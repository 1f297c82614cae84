"""The prompts that wait or run at one instance: those that we placed, and those of others.

Our own are known one by one; of the others ComfyUI tells only how long its queue is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from comfy_proxy.clock import Clock
from comfy_proxy.errors import InstanceError


class Placed(Protocol):
    """A prompt that came through this proxy (``placement.py``).

    ``in_queue``: it was sent to the instance and has not ended; ``running``: it executes there;
    ``is_leaving``: it is being deleted there, and the next ``status`` counts without it.
    ``of_client``: it is not of our jobs. ``give_up`` has it go on elsewhere.
    """

    in_queue: bool
    running: bool
    is_leaving: bool
    of_client: bool
    give_up: Callable[[InstanceError], None] | None


class PromptsThere:
    """What an instance has to do, counted in prompts.

    ``external_jobs`` did not come through the scheduler. ``queue_remaining`` is the length of its
    queue as its last ``status`` frame told it; it is kept when the instance goes away, and says
    then how many it had to lose. ``on_load`` callbacks hear that a length was told. ``worked_at``
    is when it had anything to do last, as far as was heard (monotonic seconds).
    """

    def __init__(self, clock: Clock) -> None:
        self._now = clock.monotonic
        self.worked_at = -math.inf
        self.placements: list[Placed] = []
        self.external_jobs = 0
        self.queue_remaining = 0
        self.on_load: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"<PromptsThere active={len(self.placements)} external={self.external_jobs}>"

    @property
    def total(self) -> int:
        """Every prompt known to wait or run there, whoever gave it."""
        return len(self.placements) + self.external_jobs

    @property
    def of_clients(self) -> int:
        """The part of :attr:`total` that does not belong to our jobs."""
        return sum(placement.of_client for placement in self.placements) + self.external_jobs

    @property
    def queued(self) -> int:
        """Prompts in the instance's own queue: all but those that are still on their way."""
        return self.external_jobs + self._own_queued()

    def observed(self, remaining: int) -> None:
        """``remaining`` prompts wait or run there; those above our own count were put by others."""
        if self.total:
            self.worked_at = self._now()
        self.queue_remaining = remaining
        self.external_jobs = max(0, remaining - self._own_queued())
        for callback in self.on_load:
            callback()

    def remove(self, placed: Placed) -> None:
        """It is there no longer."""
        self.placements.remove(placed)
        self.worked_at = self._now()

    def _own_queued(self) -> int:
        return sum(one.in_queue and not one.is_leaving for one in self.placements)
