"""How fast instances are, relative to each other, from works that several of them have run.

The model: work ``f`` takes ``s(i) * r(f)`` seconds at instance ``i``. In logarithms that is a sum,
and each instance is moved to where it fits the works it shares with others, one after the other.
It is always fitted to the times as they are known now, never to ratios of the past: those were
taken when the speeds of the others were not known, and would hold on to that error.

Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from math import exp, log
from statistics import fmean

from comfy_proxy.cluster.planning.samples import MATERIAL

SharedWork = tuple[float, Sequence[tuple[Hashable, float]]]
"""Seconds that one work takes here, and where else it takes how long."""

MAX_INSTANCES = 1_000
"""How many instances are remembered; for one more, the one goes that was not fitted for
longest."""
MAX_SPEED = 1_000.0
"""No instance is believed to be faster or slower than the average by more."""

_OUTLIER = log(1.5)
"""What lies further from the median than that factor pulls no harder than that.

Not a plain median: two groups of instances that each share many works, and only one with each
other, would never be moved to their true distance. Not a plain mean: one slow run would count."""
_SHORTEST_S = 0.001
"""Shorter times count as this: zero has no logarithm."""
_SHORTEST_TOLD_S = 0.1
"""Shorter times count as this where speeds are fitted: they are overhead and noise. Twelve runs of
20 ms at one instance and 50 ms at its equal would send that one no run of a second's work."""


class Speeds:
    """Relative seconds: an instance of speed 2.0 takes twice as long as the average one.

    The average is the geometric mean of all instances that share a work with another.
    ``revision`` rises with every change of a speed, however small.
    """

    def __init__(self) -> None:
        self._logs: dict[Hashable, float] = {}
        self._told: dict[Hashable, float] = {}
        self._mean = 0.0
        self.revision = 0

    def speed(self, instance: Hashable) -> float:
        """1.0 while nothing is known."""
        own = self._logs.get(instance)
        return 1.0 if own is None else exp(own - self._mean)

    def learn(self, instance: Hashable, works: Sequence[SharedWork]) -> bool:
        """Fit ``instance`` to ``works``, those it shares; returns if it moved materially."""
        if not works:
            return False
        for _, others in works:
            for other, _ in others:
                self._logs.setdefault(other, self._mean)
        shortest_s = _SHORTEST_TOLD_S
        fitted = centre(
            [_log(here, shortest_s) - self._base(others, shortest_s) for here, others in works]
        )
        limit = log(MAX_SPEED)
        self._logs.pop(instance, None)  # to come last now
        self._logs[instance] = min(max(fitted, self._mean - limit), self._mean + limit)
        while len(self._logs) > MAX_INSTANCES:
            oldest = next(iter(self._logs))
            del self._logs[oldest]
            self._told.pop(oldest, None)
        self._mean = fmean(self._logs.values())
        self.revision += 1
        return self._tell(instance)

    def base_s(self, times: Sequence[tuple[Hashable, float]]) -> float:
        """What a work takes at an instance of average speed, from its seconds elsewhere."""
        return exp(self._base(times) + self._mean)

    def export(self) -> list[tuple[Hashable, float]]:
        """Each instance whose speed is known, and that speed."""
        return [(instance, self.speed(instance)) for instance in self._logs]

    def restore(self, speeds: Mapping[Hashable, float]) -> None:
        """Take over what :meth:`export` told."""
        self._logs = {one: log(speed) for one, speed in speeds.items()}
        self._mean = fmean(self._logs.values()) if self._logs else 0.0
        self.revision += 1

    def _base(
        self, times: Sequence[tuple[Hashable, float]], shortest_s: float = _SHORTEST_S
    ) -> float:
        own, mean = self._logs.get, self._mean
        return centre([_log(seconds, shortest_s) - own(other, mean) for other, seconds in times])

    def _tell(self, instance: Hashable) -> bool:
        """If its speed is another than when that was last said."""
        own = self._logs.get(instance, self._mean) - self._mean
        told = self._told.get(instance)
        if told is not None and abs(own - told) <= log(1 + MATERIAL):
            return False
        self._told[instance] = own
        return True


def centre(values: list[float]) -> float:
    """The mean of ``values``, each no further than _OUTLIER from their median."""
    values.sort()
    half = len(values) // 2
    middle = values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2
    low, high = middle - _OUTLIER, middle + _OUTLIER
    if values[0] >= low and values[-1] <= high:
        return sum(values) / len(values)
    return sum([min(max(one, low), high) for one in values]) / len(values)


def _log(seconds: float, shortest_s: float) -> float:
    return log(seconds if seconds > shortest_s else shortest_s)
