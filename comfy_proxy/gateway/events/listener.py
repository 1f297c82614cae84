"""A client inside of the proxy that hears of its prompts as one with a WebSocket does.

It has a clientId of its own and one socket at each instance where a prompt of it is, however many
prompts these are, and keeps it as long as the application runs. What the frames tell is put on
record, and then given to whoever listens (``on_heard``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import WSCloseCode
from multidict import CIMultiDict, MultiDict

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.comfyui_frames import FEATURE_FLAGS
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.events.batch import Batch
from comfy_proxy.gateway.events.booking import FrameBooking
from comfy_proxy.gateway.events.frames import Seen
from comfy_proxy.gateway.events.upstream_client import Query, Upstream
from comfy_proxy.gateway.events.upstreams import Upstreams
from comfy_proxy.observers import tell


@dataclass(frozen=True, slots=True)
class Heard:
    """What a frame of ``instance`` says."""

    seen: Seen
    instance: Instance


class PromptListener:
    """An :class:`UpstreamClient`.

    ``client_id`` must be secret while it is in use: whoever opens a socket under it takes the place
    of this one. ``connected`` is told of each new socket; ``prefixed`` puts an instance into the
    files of an output; ``batch`` is of all clients.
    """

    first_message: Final = FEATURE_FLAGS
    farewell: Final = (int(WSCloseCode.GOING_AWAY), b"")

    def __init__(
        self,
        client_id: str,
        cluster: Cluster,
        booking: FrameBooking,
        *,
        connected: Callable[[str, Instance], None],
        prefixed: Callable[[Any, Instance], Any],
        batch: Batch,
    ) -> None:
        self.client_id = client_id
        self.deaf = False
        self.on_heard: list[Callable[[Heard], None]] = []
        self._booking = booking
        self._connected = connected
        self._cluster = cluster
        self._upstreams = Upstreams(self, cluster, prefixed, batch)

    def __repr__(self) -> str:
        return f"<PromptListener at {sum(1 for _ in self._upstreams)} instances>"

    async def ready(self, instance: Instance, timeout_s: float) -> bool:
        """Have a socket at ``instance``; False if it is not there after ``timeout_s``."""
        there = self._upstreams.open(instance)
        return there.is_connected or await self._upstreams.joined(instance, timeout_s)

    def listen_at(self, instance: Instance) -> None:
        """Begin to connect a socket at ``instance``, unless there is one; returns at once."""
        self._upstreams.open(instance)

    def hears(self, instance: Instance, since: float) -> bool:
        """Whether what happened at ``instance`` at ``since`` (monotonic) has been told on the
        socket there, or still may be."""
        return self._upstreams.hears(instance, since)

    def wake(self, instance: Instance) -> None:
        """``instance`` answered a check: it may be dialled."""
        if (upstream := self._upstreams.get(instance)) is not None:
            upstream.retry.set()

    def removed(self, instance: Instance) -> None:
        """``instance`` has left."""
        if (upstream := self._upstreams.remove(instance)) is not None:
            self._cluster.spawn(upstream.close())

    async def close(self) -> None:
        """End the sockets."""
        self.deaf = True
        self._upstreams.look_again()
        self._upstreams.abandon()
        await self._upstreams.close()

    # --- what the sockets ask and tell ---------------------------------------------------------

    def handshake(self, instance: Instance) -> tuple[Query, CIMultiDict[str]]:
        """Always under the one clientId."""
        return MultiDict(clientId=self.client_id), CIMultiDict()

    def take(self, upstream: Upstream, seen: Seen) -> None:
        """On record first, then told."""
        if self._booking.book(seen, upstream.instance):
            tell(self.on_heard, Heard(seen, upstream.instance))

    def connected(self, instance: Instance) -> None:
        """What was told while no socket was there is asked for."""
        self._connected(self.client_id, instance)

    def lost(self, instance: Instance) -> None:
        """It is connected again."""

    def away(self, instance: Instance) -> None:
        """Prompts there are followed otherwise."""
