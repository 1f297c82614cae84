"""No full garbage collection while a long answer is in memory.

A full collection looks at every object there is, and Python makes one whenever the number of
objects has grown by a quarter. What is found in an answer of 50 MB is 100,000 objects, none of them
in a cycle: that caused several full collections in a second, the last of 100 ms, in which nobody
else had a turn and nothing was freed. The younger generations are collected meanwhile as ever.
"""

from __future__ import annotations

import gc
import threading
from typing import ClassVar, Final, Self

QUIET_BYTES: Final = 2**20
"""Bytes of an answer. A longer one counts as long."""
NEVER: Final = 1_000_000_000
"""Collections of the middle generation before a full one: so many that there is none."""


class NoFullCollection:
    """There is no full collection while an object of this class exists. To be held as long as what
    was read: full collections begin again when the last one is freed, in whatever thread."""

    _lock: ClassVar[threading.RLock] = threading.RLock()
    _count: ClassVar[int] = 0
    _thresholds: ClassVar[tuple[int, int, int]] = (0, 0, 0)

    def __init__(self) -> None:
        with NoFullCollection._lock:
            if not NoFullCollection._count:
                NoFullCollection._thresholds = gc.get_threshold()
                gc.set_threshold(*NoFullCollection._thresholds[:2], NEVER)
            NoFullCollection._count += 1

    @classmethod
    def for_bytes(cls, size: int) -> Self | None:
        """One if an answer of that ``size`` is long."""
        return cls() if size > QUIET_BYTES else None

    def __del__(self) -> None:
        with NoFullCollection._lock:
            NoFullCollection._count -= 1
            if not NoFullCollection._count:
                gc.set_threshold(*NoFullCollection._thresholds)
