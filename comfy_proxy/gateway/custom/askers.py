"""What the nodes that run now have asked their clients: a reply belongs to whoever asked.

Nodes that wait (to choose a picture, to paint a mask) send a frame of their own kind with an id,
mostly that of the node, and wait for a request that names it. The instance that has sent such a
frame is the one that waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.gateway.custom.fields import is_telling, json_fields
from comfy_proxy.ledger.events import Change

MAX_FRAMES: Final = 256
"""So many frames of one instance are remembered, the latest ones."""
MAX_AGE_S: Final = 24 * 3600.0
"""Seconds after which a frame is forgotten, if nothing has ended at its instance until then: people
answer late."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    client_id: str
    kind: str
    words: frozenset[str]
    at: float


class Askers:
    """The custom frames of each instance since a prompt ended there last. One prompt runs at an
    instance at a time, and with it ends whatever its nodes have asked."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.monotonic
        self._asked = ByInstance(lambda instance: deque[_Asked](maxlen=MAX_FRAMES))
        self._began = ByInstance(lambda instance: 0.0)  # when the latest prompt did there

    def __repr__(self) -> str:
        return f"<Askers {sum(map(len, self._asked.values()))} frames>"

    def heard(self, instance: Instance, client_id: str, kind: str, data: Mapping[str, Any]) -> None:
        """``instance`` has sent this client a frame of a kind that ComfyUI itself does not send."""
        words = frozenset(value for name, value in json_fields(data) if is_telling(name, value))
        if words:
            asked = _Asked(client_id=client_id, kind=kind, words=words, at=self._now())
            self._asked[instance].append(asked)

    def observe(self, change: Change) -> None:
        """An observer of the ledger: what the nodes of a prompt that has ended, or is there no
        longer, have asked is of no more interest."""
        attempt = change.prompt.attempt
        if attempt is None or attempt.began_at is None:
            return
        asked, latest = self._asked[attempt.instance], self._began[attempt.instance]
        self._began[attempt.instance] = max(latest, attempt.began_at)
        if attempt.ended_at is None:
            return
        # The end of one that nobody listens to may be heard of when the next one runs already.
        later = [one for one in asked if attempt.began_at < latest <= one.at]
        asked.clear()
        asked.extend(later)

    @property
    def wait(self) -> bool:
        """Whether any frame is remembered."""
        return any(self._asked.values())

    def fitting(self, words: frozenset[str], client_id: str | None) -> Sequence[Instance]:
        """Who has asked for something that ``words`` names; several if that cannot be told.

        What was asked of ``client_id`` counts first, if the client is known. An instance that is
        named by more of the words than another one is meant, and not that one: a node id is the
        same wherever the workflow runs, the id of a picture is not.
        """
        for client in (client_id, None) if client_id is not None else (None,):
            named = {one: self._named(one, words, client) for one in self._asked}
            found = {one: those for one, those in named.items() if those}
            best = [
                one
                for one, those in found.items()
                if not any(those < others for others in found.values())
            ]
            if best:
                return best
        return ()

    def _named(
        self, instance: Instance, words: frozenset[str], client_id: str | None
    ) -> frozenset[str]:
        """The words that it has asked for (of that client, or of anybody)."""
        since = self._now() - MAX_AGE_S
        return frozenset().union(
            *(
                words & one.words
                for one in self._asked[instance]
                if one.at >= since and client_id in (None, one.client_id)
            )
        )
