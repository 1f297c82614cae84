"""The newest samples of one quantity, and the value that stands for them.

Pure: no I/O; a sample brings its time along.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from statistics import median

AGE_S = 24 * 3600.0
"""A sample that is this much older than the newest of its window counts no more.

A day, because drivers, options and neighbours change from one day to the next. A window that gets
nothing newer keeps what it has: an old time is better than none."""
ENOUGH_RUNS = 2
"""So many warm runs of a work make a time of its own. With fewer an instance counts as no slower
than instances with as many show.

A first run also imports, compiles and allocates. It must not stand for the next one: what is
believed to be slow is not asked, and could not show that it is not. Of two the lower one counts
(the lower median), so that one slow run is forgiven and a slow instance is known after two."""
MATERIAL = 0.1
"""By which part of itself a value must move for callers to hear of it."""
MATERIAL_S = 0.05
"""… and by how many seconds at least: nobody places work by less."""


class Window:
    """The newest ``size`` samples in seconds; ``value`` is their median, or what ``of`` makes."""

    __slots__ = ("_of", "_samples", "_told", "value")

    def __init__(self, size: int, of: Callable[[Sequence[float]], float] = median) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=size)
        self._of = of
        self._told: float | None = None
        self.value = 0.0

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def proven(self) -> bool:
        """Whether it has ENOUGH_RUNS samples."""
        return len(self._samples) >= ENOUGH_RUNS

    def add(self, seconds: float, at: float) -> bool:
        """Note one sample; returns if the value is new or moved materially since that was said."""
        self._samples.append((seconds, at))
        newest = max(when for _, when in self._samples)
        if any(when < newest - AGE_S for _, when in self._samples):
            kept = [one for one in self._samples if one[1] >= newest - AGE_S]
            self._samples = deque(kept, self._samples.maxlen)
        self.value = self._of([one for one, _ in self._samples])
        if self._told is not None and not moved(self._told, self.value):
            return False
        self._told = self.value
        return True

    def export(self, now: float) -> list[list[float]]:
        """``[seconds, age in seconds]`` of each sample: clocks differ from process to process."""
        return [[seconds, now - at] for seconds, at in self._samples]

    def restore(self, samples: Iterable[Sequence[float]], now: float) -> None:
        """Add what :meth:`export` told."""
        for seconds, age_s in samples:
            self.add(float(seconds), now - float(age_s))


def moved(told: float, value: float) -> bool:
    """If ``value`` in seconds is materially another than ``told``."""
    return abs(value - told) > max(told * MATERIAL, MATERIAL_S)
