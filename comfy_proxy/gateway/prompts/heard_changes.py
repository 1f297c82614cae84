"""Whether the clients' sockets have told of a change of a queue, and when to look if they have not.

A socket that stays silent does not tell when the next prompt ends. So the instance is looked at
again and again then, at growing intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Protocol

from comfy_proxy.clock import Clock, Timer
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.ledger.prompt import Prompt

LISTEN_S = 2.0
"""Seconds that the sockets of the clients that listen have to tell of a change of a queue, of which
ComfyUI tells each of them; then the instance is looked at."""
LONGEST_PAUSE_S = 10.0
"""Seconds between two looks at most while a socket is silent; each pause is twice as long as the
one before it. It need not be broken: a node that loads a model is silent too."""


class Listeners(Protocol):
    """The clients that have a socket here: ``events/sessions.py``."""

    def listens(self, client_id: str, /) -> bool:
        """Whether a client of that id has a socket here."""

    def hears(self, client_id: str, instance: Instance, since: float, /) -> bool:
        """Whether the client has heard of what happened at ``instance`` at ``since`` (monotonic
        seconds), or may hear of it yet."""

    def end_learnt(self, prompt: Prompt, entry: Mapping[str, Any], instance: Instance, /) -> None:
        """An entry of the history tells how ``prompt`` has ended, which its client may not know."""


class HeardChanges:
    """Calls ``look`` LISTEN_S after a change of a queue, once for all changes in that time."""

    def __init__(
        self, clock: Clock, listeners: Listeners, look: Callable[[Instance], None]
    ) -> None:
        self._clock = clock
        self._listeners = listeners
        self._look = look
        self._changed_at = ByInstance[float]()
        self._pauses_s = ByInstance[float]()
        self._timers = ByInstance[Timer]()
        self._closed = False

    def changed(self, instance: Instance) -> None:
        """The queue of ``instance`` has changed."""
        if instance not in self._timers:
            self._changed_at[instance] = self._clock.monotonic()
            self._begin(instance, LISTEN_S)

    def hears(self, client_id: str, instance: Instance) -> bool:
        """Whether that client has heard of the last change there on a socket, or may yet."""
        since = self._changed_at.get(instance, -math.inf)
        return self._listeners.hears(client_id, instance, since)

    def looked(self, instance: Instance, prompts: Iterable[Prompt]) -> None:
        """The instance was looked at, and ``prompts`` are there still: have it looked at once more,
        later, if a client of one of them that listens has not heard of the change."""
        if not instance.healthy or instance not in self._pauses_s or instance in self._timers:
            return
        names = {prompt.client_id for prompt in prompts if prompt.client_id is not None}
        listening = [one for one in names if self._listeners.listens(one)]
        if not all(self.hears(one, instance) for one in listening):
            self._begin(instance, min(2 * self._pauses_s[instance], LONGEST_PAUSE_S))

    def removed(self, instance: Instance) -> None:
        """``instance`` has left: look at it no more."""
        if (timer := self._timers.get(instance)) is not None:
            timer.cancel()

    def close(self) -> None:
        """Call no more."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()

    def _begin(self, instance: Instance, pause_s: float) -> None:
        if not self._closed and not instance.left:
            self._pauses_s[instance] = pause_s
            self._timers[instance] = self._clock.call_later(pause_s, partial(self._due, instance))

    def _due(self, instance: Instance) -> None:
        self._timers.pop(instance, None)
        self._look(instance)
