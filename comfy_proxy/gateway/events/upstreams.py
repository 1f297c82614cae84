"""The upstream sockets of one client: one to each instance, begun, awaited and ended together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from aiohttp import web

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.gateway.events.upstream_socket import UpstreamClient, UpstreamSocket

CONNECT_TIMEOUT_S = 5.0
"""Seconds that a client waits for a first instance. Beyond it its handshake is answered 503."""
JOIN_TIMEOUT_S = 1.0
"""Seconds that it then waits for the others. Beyond it it is greeted, and they join later."""

SILENCE_S = 2.0
"""Seconds that a socket which is open has to tell what is known from elsewhere. Beyond it, if no
other frame came on it either, it counts as silent."""
TOLERANCE_S = 0.1
"""Seconds by which a frame may come before that of another socket which tells the same."""


class Upstreams:
    """``client`` is told what they hear; ``prefixed`` puts an instance into the files of an output.

    A client that is deaf waits for nothing: whoever waits for a socket of it is let go.
    """

    def __init__(
        self,
        client: UpstreamClient,
        cluster: Cluster,
        prefixed: Callable[[Any, Instance], Any],
    ) -> None:
        self._client = client
        self._cluster = cluster
        self._prefixed = prefixed
        self._changed = asyncio.Event()
        self._request: web.Request | None = None
        self._sockets = _sockets(client, cluster, prefixed, self.look_again)

    def __getitem__(self, instance: Instance) -> UpstreamSocket:
        return self._sockets[instance]

    def __iter__(self) -> Iterator[UpstreamSocket]:
        return iter(tuple(self._sockets.values()))

    def start(self, request: web.Request, predecessors: Upstreams | None) -> None:
        """Begin to connect to all instances, to each when the predecessor has left it."""
        self._request = request
        for instance, upstream in tuple(self._sockets.items()):
            upstream.start(request, None if predecessors is None else predecessors[instance])

    def restart(self, request: web.Request, predecessors: Upstreams) -> None:
        """As :meth:`start`, with new sockets: those of before have ended, or are about to."""
        self._sockets = _sockets(self._client, self._cluster, self._prefixed, self.look_again)
        self.start(request, predecessors)

    def add(self, instance: Instance) -> None:
        """There is one instance more: begin to connect to it."""
        if self._request is not None:
            self._sockets[instance].start(self._request, None)

    def remove(self, instance: Instance) -> UpstreamSocket | None:
        """It has left: nobody waits for the socket there, which is to be closed."""
        self._changed.set()
        return self._sockets.pop(instance, None)

    async def connected(self) -> bool:
        """Wait for the instances; False if there is none at all."""
        await self._until(
            lambda: (
                any(one.connected.is_set() for one in self) or all(one.attempted for one in self)
            ),
            CONNECT_TIMEOUT_S,
        )
        if not any(one.connected.is_set() for one in self):
            return False
        await self._until(
            lambda: all(one.attempted or not one.instance.healthy for one in self), JOIN_TIMEOUT_S
        )
        return True

    async def joined(self, instance: Instance, timeout_s: float) -> bool:
        """Wait for the socket at ``instance``, but for no longer than the next attempt fails."""
        upstream = self._sockets[instance]
        failures = upstream.failures
        upstream.retry.set()
        await self._until(
            lambda: upstream.connected.is_set() or upstream.failures > failures, timeout_s
        )
        return upstream.connected.is_set()

    def hears(self, instance: Instance, since: float) -> bool:
        """Whether what happened at ``instance`` at ``since`` (monotonic) has been told on the
        socket there, or still may be."""
        upstream = self._sockets[instance]
        in_time = self._cluster.clock.monotonic() - since < SILENCE_S
        return upstream.connected.is_set() and (in_time or upstream.heard_at >= since - TOLERANCE_S)

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

    async def _until(self, enough: Callable[[], bool], timeout_s: float) -> None:
        try:
            async with self._cluster.clock.timeout(timeout_s):
                while not (enough() or self._client.deaf):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return


def _sockets(
    client: UpstreamClient,
    cluster: Cluster,
    prefixed: Callable[[Any, Instance], Any],
    on_attempt: Callable[[], None],
) -> ByInstance[UpstreamSocket]:
    """One for each instance that there is, not begun yet."""
    sockets = ByInstance(
        lambda instance: UpstreamSocket(
            client, instance, cluster, prefixed=prefixed, on_attempt=on_attempt
        )
    )
    for instance in cluster.instances:
        _ = sockets[instance]
    return sockets
