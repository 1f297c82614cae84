"""When a client that was refused for want of room is to come back (``Retry-After``). Pure, no I/O.

A client that is refused is promised the next place that was promised to nobody yet: one becomes
free in each interval of the measured rate. So if five times as many clients come as there is room
for, the last ones are told to wait minutes, and do not come every second for nothing.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Hashable
from itertools import count
from typing import Final

from comfy_proxy.clock import Clock

MIN_RETRY_S: Final = 1
MAX_RETRY_S: Final = 3600
"""Seconds of a ``Retry-After``, which are whole, at least and at most."""
UNKNOWN_S: Final = 5.0
"""Seconds until the next place while it is not known how fast places become free."""
GRACE_S: Final = 3.0
"""Seconds for which a place is kept for a client that was promised it and does not come; then
others get it. Retry-After is in whole seconds, so one of the seconds is rounding."""
MAX_PROMISES: Final = 10_000
"""Promises that are remembered, of all clients. A client that is refused beyond them is told the
time behind the last one, and no place is kept for it."""
MAX_OF_ONE: Final = 100
"""Promises that are remembered of requests that are alike (``who``): such a request may be of
another client, or of the same one, which did not wait. Beyond them no place is kept for it."""
_Due = tuple[float, int, Hashable]  # monotonic seconds, a number that orders equals, who
_WINDOW: Final = 32  # the places that became free last, of which the rate is made
_TRUSTED: Final = 4  # places that have to become free before there is a rate
_WEIGHT: Final = 1 / 32  # of a client that came back, or did not, in the share of those who do


class Throughput:
    """How fast places become free while all are taken: the rate of the last _WINDOW places."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._left: deque[float] = deque(maxlen=_WINDOW)

    def left(self) -> None:
        """A place has become free."""
        self._left.append(self._clock.monotonic())

    def idle(self) -> None:
        """Nobody waits, so forget the rate: from now on places become free as clients ask, not as
        fast as the instances can."""
        self._left.clear()

    def interval_s(self) -> float | None:
        """Seconds from one free place to the next; None before _TRUSTED were seen. It grows while
        no place becomes free."""
        seen = len(self._left)
        if seen < _TRUSTED:
            return None
        first, last = self._left[0], self._left[-1]
        return max((last - first) / (seen - 1), (self._clock.monotonic() - first) / seen)


class Promises:
    """Who was told to come back when. ``who`` is the same for a request and its repetition."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._order: list[_Due] = []  # of all, the earliest first
        self._of: dict[Hashable, list[_Due]] = {}
        self._numbers = count()
        self._share = 1.0  # of those who were promised a place: how many come back for it

    def __len__(self) -> int:
        return len(self._order)

    def reserved(self) -> float:
        """How many places are kept for clients that should be back by now."""
        self._forget_absent()
        return self._share * self._overdue()

    def is_due(self, who: Hashable) -> bool:
        """Whether ``who`` was promised a place by now."""
        self._forget_absent()
        own = self._of.get(who)
        return own is not None and own[0][0] <= self._clock.monotonic()

    def keep(self, who: Hashable) -> None:
        """``who`` has its place: its promise is kept."""
        if who in self._of:
            self._drop(self._of[who][0], who)
            self._share += (1.0 - self._share) * _WEIGHT

    def told_s(
        self, who: Hashable, first_s: float, interval_s: float, *, known: bool = False
    ) -> int:
        """Seconds after which ``who``, which is refused, is to come back, MIN_RETRY_S to
        MAX_RETRY_S: the first place is free in ``first_s``, and then one in each interval.

        ``known``: it is the same request as before, so it has its promise already.
        """
        now = self._clock.monotonic()
        own = self._of.get(who, [])
        if own and own[0][0] <= now:  # there should have been a place: it goes before the others
            wait_s = first_s + interval_s * (self._overdue() - 1)
            self._drop(own[0], who)
            return self._promise(who, wait_s)
        if own and known:
            return _whole(own[0][0] - now)
        last_s = self._order[-1][0] - now if self._order else 0.0
        wait_s = max(first_s, last_s + interval_s * self._share) if self._order else first_s
        if len(self._order) >= MAX_PROMISES or len(own) >= MAX_OF_ONE:
            return _whole(wait_s)
        return self._promise(who, wait_s)

    def _promise(self, who: Hashable, wait_s: float) -> int:
        due = self._clock.monotonic() + min(wait_s, MAX_RETRY_S)
        entry = (due, next(self._numbers), who)
        insort(self._order, entry, key=_moment)
        insort(self._of.setdefault(who, []), entry, key=_moment)
        return _whole(wait_s)

    def _overdue(self) -> int:
        return bisect_right(self._order, self._clock.monotonic(), key=lambda one: one[0])

    def _forget_absent(self) -> None:
        """Drop the promises of clients that have not come back within GRACE_S."""
        limit = self._clock.monotonic() - GRACE_S
        for entry in self._order[: bisect_left(self._order, limit, key=lambda one: one[0])]:
            self._drop(entry, entry[2])
            self._share *= 1.0 - _WEIGHT

    def _drop(self, entry: _Due, who: Hashable) -> None:
        del self._order[bisect_left(self._order, _moment(entry), key=_moment)]
        own = self._of[who]
        own.remove(entry)
        if not own:
            del self._of[who]


def _moment(entry: _Due) -> tuple[float, int]:
    return entry[:2]


def _whole(seconds: float) -> int:
    return min(MAX_RETRY_S, max(MIN_RETRY_S, math.ceil(seconds)))
