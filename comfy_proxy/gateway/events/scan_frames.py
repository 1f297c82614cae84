"""``assets.seed.*`` frames of all instances, as clients are to see them: one scan, told once.

Each instance scans its own directories and tells every socket of it: ``started`` and a
``…_complete`` for each of its two phases, ``progress`` in between, and an end. Often all of them do
it for the same reason (a look at ``/object_info``, a client's order), at once or one shortly after
the other. Such scans are one for the clients: they are told of the one that began first, and of the
end when the last of them has ended and no other has begun for ``QUIET_S``. So when one looks at the
list after the end, everything is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from comfy_proxy.clock import Clock, Timer
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.roster import ByInstance

PREFIX = "assets.seed."
QUIET_S = 1.0
"""Seconds from the last end of a scan until the client is told of it. A scan that another instance
begins in that time counts as the same one; beyond, it is a new one."""
_ENDS = frozenset({"completed", "cancelled", "error"})
_ONCE = frozenset({"started", "fast_complete", "enrich_complete"})


class ScanFrames:
    """For all clients, over the shared sockets; ``put`` sends each of them a frame (its text)."""

    def __init__(self, put: Callable[[str], None], clock: Clock) -> None:
        self._put = put
        self._clock = clock
        self._scanning = ByInstance[None]()
        self._told: set[tuple[str, str]] = set()
        self._ending: Timer | None = None

    def __repr__(self) -> str:
        return f"<ScanFrames {len(self._scanning)} instances scan>"

    def take(self, kind: str, data: Mapping[str, Any], text: str, instance: Instance) -> None:
        """A frame of ``instance``; ``text`` is all of it."""
        step = kind.removeprefix(PREFIX)
        self.close()
        if step in _ENDS:
            self._scanning.pop(instance, None)
            if not self._scanning:
                self._ending = self._clock.call_later(QUIET_S, lambda: self._end(text))
        else:
            self._scanning.setdefault(instance)
            if next(iter(self._scanning)) is instance and self._is_new(step, data):
                self._put(text)

    def lost(self, instance: Instance) -> None:
        """Its socket has ended or is a new one: the end of a scan may have been missed."""
        self._scanning.pop(instance, None)
        if not self._scanning and self._ending is None:
            self._told.clear()

    def close(self) -> None:
        """Tell no end that is due."""
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None

    def _end(self, text: str) -> None:
        """It is quiet."""
        self._ending = None
        self._told.clear()
        self._put(text)

    def _is_new(self, step: str, data: Mapping[str, Any]) -> bool:
        """False for a step of this scan that was told already."""
        key = step, str(data.get("phase"))
        if step in _ONCE and key in self._told:
            return False
        self._told.add(key)
        return True
