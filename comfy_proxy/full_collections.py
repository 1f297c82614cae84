"""No full garbage collection while a long answer is in memory.

Python's collector looks at all objects again whenever a quarter as many have been added. What is
found in an answer of 50 MB is 100,000 objects, none of which is in a cycle: several full
collections in a second, the last of 100 ms, in which nobody else has a turn, and for nothing. The
younger generations are collected meanwhile as ever; what is in cycles waits a little longer.
"""

from __future__ import annotations

import gc
import threading
from typing import ClassVar, Final, Self

QUIET_BYTES: Final = 2**20
"""Bytes of an answer from which on it counts as long."""
NEVER: Final = 1_000_000_000
"""So many collections of the middle generation before a full one."""


class NoFullCollection:
    """There is none from the beginning of the first of these to the end of the last."""

    _lock: ClassVar[threading.RLock] = threading.RLock()  # the last one may end in any thread
    _there: ClassVar[int] = 0
    _thresholds: ClassVar[tuple[int, int, int]] = (0, 0, 0)

    def __init__(self) -> None:
        with NoFullCollection._lock:
            if not NoFullCollection._there:
                NoFullCollection._thresholds = gc.get_threshold()
                gc.set_threshold(*NoFullCollection._thresholds[:2], NEVER)
            NoFullCollection._there += 1

    @classmethod
    def for_bytes(cls, size: int) -> Self | None:
        """One if an answer of that ``size`` is long."""
        return cls() if size > QUIET_BYTES else None

    def __del__(self) -> None:
        with NoFullCollection._lock:
            NoFullCollection._there -= 1
            if not NoFullCollection._there:
                gc.set_threshold(*NoFullCollection._thresholds)
