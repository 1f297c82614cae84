"""Ends that a client should have heard and has not: told to it as ComfyUI would have told them.

When a socket to an instance breaks, or falls silent while HTTP answers, the history tells that a
prompt has ended (``prompts/reconciler.py``). The frames that the client lacks are made of that
entry, in ComfyUI's order. While the socket is open its own frames may still come, with pictures
that no history has: they have SILENCE_S. A socket on which nothing comes in that time is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from comfy_proxy.clock import Timer
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_outcomes import ENDS, messages_of
from comfy_proxy.gateway.events.client_feed import ClientFeed
from comfy_proxy.gateway.events.frames import Pass, event_frame
from comfy_proxy.gateway.events.sums import OwnSum
from comfy_proxy.gateway.events.told_prompts import ToldPrompts
from comfy_proxy.gateway.events.upstreams import SILENCE_S, Upstreams

MAX_WAITS = 5
"""So many times SILENCE_S an open socket has, while other frames come on it, to tell an end that
the history tells already. Beyond them the end is told from here."""


@dataclass(frozen=True, slots=True)
class _Waited:
    """An end that an open socket may still tell."""

    timer: Timer
    entry: Mapping[str, Any]
    instance: Instance


class MissedEnds:
    """For one client; ``prefixed`` marks the files of an output with their instance (``@2``)."""

    def __init__(
        self,
        cluster: Cluster,
        told: ToldPrompts,
        feed: ClientFeed,
        upstreams: Upstreams,
        queues: OwnSum,
        prefixed: Callable[[Any, Instance], Any],
    ) -> None:
        self._cluster = cluster
        self._told = told
        self._feed = feed
        self._upstreams = upstreams
        self._queues = queues
        self._prefixed = prefixed
        self._waited_for: dict[str, _Waited] = {}

    def __repr__(self) -> str:
        return f"<MissedEnds {len(self._waited_for)} waited for>"

    def learnt(self, prompt_id: str, entry: Mapping[str, Any], instance: Instance) -> None:
        """The history of ``instance`` has the ``entry`` of that prompt."""
        if self._told.of(prompt_id).ended:
            self._feed.sum_corrected()
        elif (upstream := self._upstreams.get(instance)) is not None and upstream.is_connected:
            self._wait(prompt_id, entry, instance, 1)
        else:
            self._give(prompt_id, entry, instance)

    def began(self, prompt_id: str, instance: Instance) -> None:
        """A prompt begins at ``instance``. ComfyUI tells ends in their order, so an end before it
        that the socket has not told by now came while that was broken: tell it from here."""
        for other, waited in tuple(self._waited_for.items()):
            if waited.instance is instance and other != prompt_id:
                waited.timer.cancel()
                del self._waited_for[other]
                if not self._told.of(other).ended:
                    self._give(other, waited.entry, instance)

    def lost(self, instance: Instance) -> None:
        """The socket to ``instance`` has ended, perhaps between the end of a prompt and the last
        frame after it: tell that frame from here."""
        for prompt_id in self._told.without_last(instance):
            self._told.of(prompt_id).over = True
            self._feed.put(Pass(data=_over(prompt_id)))
            self._feed.status_changed()

    def removed(self, instance: Instance) -> None:
        """``instance`` has left: what its socket was to tell yet is told from here."""
        for prompt_id, waited in tuple(self._waited_for.items()):
            if waited.instance is instance:
                waited.timer.cancel()
                del self._waited_for[prompt_id]
                if not self._told.of(prompt_id).ended:
                    self._give(prompt_id, waited.entry, instance)
        self.lost(instance)
        self._told.removed(instance)

    def close(self) -> None:
        """The client has left."""
        for waited in self._waited_for.values():
            waited.timer.cancel()
        self._waited_for.clear()

    def _wait(
        self, prompt_id: str, entry: Mapping[str, Any], instance: Instance, waits: int
    ) -> None:
        began_at = self._cluster.clock.monotonic()

        def check() -> None:
            del self._waited_for[prompt_id]
            upstream = self._upstreams.get(instance)
            speaks = upstream and upstream.heard_at > began_at and upstream.is_connected
            if self._told.of(prompt_id).ended:
                return
            if speaks and waits < MAX_WAITS:
                self._wait(prompt_id, entry, instance, waits + 1)
                return
            if upstream is not None and not speaks:
                if (queue := self._queues.get(instance)) is not None:
                    queue.unheard()
                self._cluster.spawn(upstream.renew())
            self._give(prompt_id, entry, instance)

        if (before := self._waited_for.pop(prompt_id, None)) is not None:
            before.timer.cancel()
        timer = self._cluster.clock.call_later(SILENCE_S, check)
        self._waited_for[prompt_id] = _Waited(timer, entry, instance)

    def _give(self, prompt_id: str, entry: Mapping[str, Any], instance: Instance) -> None:
        """Tell all frames that are missing, the sum of the queues last."""
        if self._feed.muted:
            return
        for text in self._missing(prompt_id, entry, instance):
            self._feed.put(Pass(data=text))
        self._told.given(prompt_id)
        self._feed.status_changed()

    def _missing(
        self, prompt_id: str, entry: Mapping[str, Any], instance: Instance
    ) -> Iterator[str]:
        told, messages = self._told.of(prompt_id), messages_of(entry)
        for kind, is_told in (
            ("execution_start", told.started),
            ("execution_cached", told.started or told.cached),
        ):
            if kind in messages and not is_told:
                yield event_frame(kind, messages[kind])
        outputs, meta = entry.get("outputs"), entry.get("meta")
        for node, output in outputs.items() if isinstance(outputs, Mapping) else ():
            if node not in told.outputs:
                data = {"node": node, "display_node": _display_node(node, meta)}
                data |= {"output": self._prefixed(output, instance), "prompt_id": prompt_id}
                yield event_frame("executed", data)
        for kind in ENDS:
            if kind in messages:
                yield event_frame(kind, messages[kind])
        yield _over(prompt_id)


def _over(prompt_id: str) -> str:
    return event_frame("executing", {"node": None, "prompt_id": prompt_id})


def _display_node(node: str, meta: Any) -> Any:
    """The node that shows the results of ``node``: the one that has expanded to it, else itself."""
    about = meta.get(node) if isinstance(meta, Mapping) else None
    return about.get("display_node", node) if isinstance(about, Mapping) else node
