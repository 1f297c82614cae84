"""When a queue has changed, and the clients' sockets have had time to tell of it.

If they tell nothing, nothing says when to look but the time: it is looked again and again then, at
growing intervals.
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
"""Seconds after a change of a queue until it is looked at whether the sockets of the clients that
listen have told anything since: ComfyUI tells each of them of each change."""
LONGEST_PAUSE_S = 10.0
"""Seconds between two looks at most while sockets are silent; each pause is twice as long as the
one before it. A node that loads a model is as silent as a broken socket."""


class Listeners(Protocol):
    """The clients that have a socket here: ``events/sessions.py``."""

    def listens(self, client_id: str, /) -> bool:
        """Whether a client of that id has a socket here."""

    def hears(self, client_id: str, instance: Instance, since: float, /) -> bool:
        """Whether the client has heard, or still may, what happened there at ``since``."""

    def end_learnt(self, prompt: Prompt, entry: Mapping[str, Any], instance: Instance, /) -> None:
        """An entry of the history tells how ``prompt`` has ended, which its client may not know."""


class HeardChanges:
    """``look`` is called LISTEN_S after the first change of a queue since the last such call."""

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
        """Its queue has changed."""
        if instance not in self._timers:
            self._changed_at[instance] = self._clock.monotonic()
            self._begin(instance, LISTEN_S)

    def hears(self, client_id: str, instance: Instance) -> bool:
        """Whether that client has a socket there on which the last change was told, or may be."""
        since = self._changed_at.get(instance, -math.inf)
        return self._listeners.hears(client_id, instance, since)

    def looked(self, instance: Instance, prompts: Iterable[Prompt]) -> None:
        """It was looked what has become of ``prompts``, which are there still: look once more,
        later, if the client of one of them has heard nothing of the change yet."""
        if not instance.healthy or instance not in self._pauses_s or instance in self._timers:
            return
        names = {prompt.client_id for prompt in prompts if prompt.client_id is not None}
        listening = [one for one in names if self._listeners.listens(one)]
        if not all(self.hears(one, instance) for one in listening):
            self._begin(instance, min(2 * self._pauses_s[instance], LONGEST_PAUSE_S))

    def removed(self, instance: Instance) -> None:
        """It has left: it is looked at no more."""
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
