"""The sockets of one client at instances: each begun when it is first needed, all ended as one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.gateway.events.batch import Batch
from comfy_proxy.gateway.events.upstream_client import UpstreamClient
from comfy_proxy.gateway.events.upstream_socket import UpstreamSocket

SILENCE_S = 2.0
"""Seconds that a socket which is open has to tell what is known from elsewhere. Beyond it, if no
other frame came on it either, it counts as silent."""
TOLERANCE_S = 0.1
"""Seconds by which a frame may come before that of another socket which tells the same."""


class Upstreams:
    """``client`` is told what they hear; ``prefixed`` puts an instance into the files of an output;
    ``batch`` is of all clients.

    A client that is deaf waits for nothing: whoever waits for a socket of it is let go.
    """

    def __init__(
        self,
        client: UpstreamClient,
        cluster: Cluster,
        prefixed: Callable[[Any, Instance], Any],
        batch: Batch,
    ) -> None:
        self._client = client
        self._cluster = cluster
        self._prefixed = prefixed
        self._batch = batch
        self._changed = asyncio.Event()
        self._sockets = ByInstance[UpstreamSocket]()

    def get(self, instance: Instance) -> UpstreamSocket | None:
        """The socket there; None if none was begun."""
        return self._sockets.get(instance)

    def __iter__(self) -> Iterator[UpstreamSocket]:
        return iter(tuple(self._sockets.values()))

    def open(self, instance: Instance, predecessor: UpstreamSocket | None = None) -> UpstreamSocket:
        """The socket there, begun if there is none; it connects when the predecessor has ended."""
        if (upstream := self._sockets.get(instance)) is None:
            upstream = self._sockets[instance] = UpstreamSocket(
                self._client,
                instance,
                self._cluster,
                prefixed=self._prefixed,
                batch=self._batch,
                on_attempt=self.look_again,
            )
            if not instance.left:
                upstream.start(predecessor)
        return upstream

    def remove(self, instance: Instance) -> UpstreamSocket | None:
        """It has left: nobody waits for the socket there, which is to be closed."""
        self._changed.set()
        return self._sockets.pop(instance, None)

    async def joined(self, instance: Instance, timeout_s: float) -> bool:
        """Wait for the socket at ``instance``, but for no longer than the next attempt fails."""
        upstream = self.open(instance)
        failures = upstream.failures
        upstream.retry.set()
        await self.until(lambda: upstream.is_connected or upstream.failures > failures, timeout_s)
        return upstream.is_connected

    def hears(self, instance: Instance, since: float) -> bool:
        """Whether what happened at ``instance`` at ``since`` (monotonic) has been told on the
        socket there, or still may be."""
        if (upstream := self._sockets.get(instance)) is None:
            return False
        in_time = self._cluster.clock.monotonic() - since < SILENCE_S
        return upstream.is_connected and (in_time or upstream.heard_at >= since - TOLERANCE_S)

    def look_again(self) -> None:
        """A socket has come or not, or the client is deaf: who waits may have waited enough."""
        self._changed.set()

    async def introduce(self) -> None:
        """Send each instance the client's feature flags, if it has not got them."""
        await asyncio.gather(*(upstream.introduce() for upstream in self))

    async def send(self, data: str | bytes) -> None:
        """A message of the client, to each instance."""
        await asyncio.gather(*(upstream.send(data) for upstream in self))

    def abandon(self) -> None:
        """The proxy goes down: let go of the sockets without waiting for a handshake."""
        for upstream in self:
            upstream.abandon()

    async def close(self) -> None:
        """End them all; after it their clientId may be used again."""
        await asyncio.gather(*(upstream.close() for upstream in self))

    async def until(self, enough: Callable[[], bool], timeout_s: float) -> None:
        """Wait until that holds, or the client is deaf; asked whenever :meth:`look_again` is
        called."""
        try:
            async with self._cluster.clock.timeout(timeout_s):
                while not (enough() or self._client.deaf):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return
