"""When a queue has changed, and its sockets have had time to tell of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from comfy_proxy.clock import Clock, Timer
from comfy_proxy.cluster.instance import Instance

LISTEN_S = 2.0
"""Seconds after a change of a queue until it is looked at whether the sockets of the clients that
listen have told anything since: ComfyUI tells each of them of each change."""


class HeardChanges:
    """``look`` is called LISTEN_S after the first change of a queue since the last such call."""

    def __init__(self, clock: Clock, look: Callable[[Instance], None]) -> None:
        self._clock = clock
        self._look = look
        self._changed_at: dict[Instance, float] = {}
        self._timers: dict[Instance, Timer] = {}

    def changed(self, instance: Instance) -> None:
        """Its queue has changed."""
        if instance not in self._timers:
            self._changed_at[instance] = self._clock.monotonic()
            self._timers[instance] = self._clock.call_later(LISTEN_S, partial(self._due, instance))

    def since(self, instance: Instance) -> float:
        """The change (monotonic seconds) since when a socket that has told nothing is silent."""
        return self._changed_at.get(instance, -math.inf)

    def close(self) -> None:
        """Call no more."""
        for timer in self._timers.values():
            timer.cancel()

    def _due(self, instance: Instance) -> None:
        del self._timers[instance]
        self._look(instance)
