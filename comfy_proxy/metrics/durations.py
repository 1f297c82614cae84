"""Durations in bounded memory: exact number and sum, percentiles of the last thousand."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from math import ceil

REMEMBERED = 1000
"""Durations of which percentiles are made; the oldest is forgotten for each one more."""
PERCENTILES = (50, 95, 99)
DURATION_BOUNDS_S = (
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
    *(10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)
"""Upper bounds of the histograms of jobs and prompts, in seconds: from no wait to a video."""


class Durations:
    """``count`` and ``total_s`` are since the start, percentiles are of the last REMEMBERED.

    Those are kept sorted, so that asking costs nothing and recording takes a microsecond.
    """

    __slots__ = ("_recent", "_sorted", "count", "total_s")

    def __init__(self) -> None:
        self.count = 0
        self.total_s = 0.0
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []

    def __repr__(self) -> str:
        return f"<Durations {self.count}, mean {self.mean_s} s>"

    def record(self, duration_s: float) -> None:
        self.count += 1
        self.total_s += duration_s
        if len(self._recent) == REMEMBERED:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]
        self._recent.append(duration_s)
        insort(self._sorted, duration_s)

    @property
    def mean_s(self) -> float | None:
        """The mean of all durations since the start; None before the first."""
        return self.total_s / self.count if self.count else None

    def percentile_s(self, percent: float) -> float | None:
        """The least of the last REMEMBERED that ``percent`` of them do not exceed (nearest rank).

        None before the first.
        """
        if not self._sorted:
            return None
        return self._sorted[max(0, ceil(len(self._sorted) * percent / 100) - 1)]

    def as_json(self) -> dict[str, float | int | None]:
        return {
            "count": self.count,
            "mean_seconds": rounded(self.mean_s),
            **{f"p{one}_seconds": rounded(self.percentile_s(one)) for one in PERCENTILES},
        }


class Histogram:
    """Counts durations by the bound that they do not exceed; ``bounds_s`` in ascending seconds."""

    __slots__ = ("_bounds_s", "_counts", "total_s")

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self._bounds_s = bounds_s
        self._counts = [0] * (len(bounds_s) + 1)
        self.total_s = 0.0

    def record(self, duration_s: float) -> None:
        self._counts[bisect_left(self._bounds_s, duration_s)] += 1
        self.total_s += duration_s

    @property
    def count(self) -> int:
        return sum(self._counts)

    def cumulative(self) -> list[tuple[float, int]]:
        """Each bound with the number of durations up to it; the last bound is infinite."""
        result, so_far = [], 0
        for bound, count in zip((*self._bounds_s, float("inf")), self._counts, strict=True):
            so_far += count
            result.append((bound, so_far))
        return result


def rounded(seconds: float | None) -> float | None:
    """``seconds`` to the microsecond, as the JSON of ``/metrics`` has them; None stays None."""
    return None if seconds is None else round(seconds, 6)
