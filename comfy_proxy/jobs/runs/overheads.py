"""What jobs take beside the execution by ComfyUI: on the way there, and from there to their end."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Final

REMEMBERED: Final = 20
"""Jobs of each type of which the medians are made; the oldest is forgotten for one more."""


class Overheads:
    """Median seconds by job type; of one that was never measured those of all others.

    Medians, because a picture may be a hundred times as large as the next one, and a busy moment
    must not show in every estimate after it.
    """

    def __init__(self) -> None:
        self._before: dict[str, deque[float]] = {}
        self._after: dict[str, deque[float]] = {}

    def record(self, job_type: str, *, before_s: float, after_s: float) -> None:
        """Note one job: the seconds from its place at an instance until that had taken the prompt,
        and those from the end of the execution to the finished picture."""
        for kept, seconds in ((self._before, before_s), (self._after, after_s)):
            kept.setdefault(job_type, deque(maxlen=REMEMBERED)).append(max(0.0, seconds))

    def before_s(self, job_type: str) -> float:
        """Upload, check and submission; 0.0 before anything was measured. A job that waits at its
        instance for others does not notice them."""
        return _median(self._before, job_type)

    def after_s(self, job_type: str) -> float:
        """Fetching and converting the picture; 0.0 before anything was measured."""
        return _median(self._after, job_type)


def _median(kept: dict[str, deque[float]], job_type: str) -> float:
    samples = kept.get(job_type) or [one for each in kept.values() for one in each]
    return median(samples) if samples else 0.0
