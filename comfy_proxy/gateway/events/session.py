"""One client's socket over all instances: status summed, everything else in order and once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from aiohttp import WSCloseCode, hdrs, web

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.events.client_feed import ClientFeed
from comfy_proxy.gateway.events.client_messages import take
from comfy_proxy.gateway.events.frames import Pass
from comfy_proxy.gateway.events.own_sockets import OwnSockets, Surroundings
from comfy_proxy.gateway.events.told_prompts import ToldPrompts
from comfy_proxy.gateway.events.upstream_socket import UpstreamSocket
from comfy_proxy.gateway.exchange.client_socket import ClientSocket
from comfy_proxy.gateway.exchange.context import STOPPING

GOODBYE_TIMEOUT_S = 2.0
"""Seconds that a client has to answer a close frame of ours. Beyond it the connection is cut."""
DRAIN_TIMEOUT_S = 10.0
"""Seconds that a client that reads too slowly has to read up to its close frame. Beyond it the
connection is cut. It is longer than for others because what was written already comes before it."""


def new_socket() -> ClientSocket:
    """For one client. As in ComfyUI a message of it has at most 4 MiB, aiohttp's default."""
    return ClientSocket(timeout=GOODBYE_TIMEOUT_S)


class EventSession:
    """The client's own socket ``ws`` with what it is sent (``feed``), and its sockets at instances
    (``own``), if it needs any: an idle client has none, and little else.

    ``client_id`` is the client's own, or made for one that has none (its ``sid``); ``told`` is what
    it has been told of its prompts. ``farewell`` is the code and reason with which its sockets at
    the instances end; ``first_message`` its feature flags, if it began with them; ``everywhere``:
    it needs a socket at each instance, also at those that join later; ``has_spoken``: it has sent a
    message that counts.
    """

    __slots__ = (
        *("_ending", "_goodbye", "_over", "_reading", "_ws", "client_id", "common"),
        *("everywhere", "farewell", "feed", "first_message", "has_spoken", "own", "request"),
        *("signature", "told"),
    )

    def __init__(
        self,
        client_id: str,
        request: web.Request,
        ws: ClientSocket,
        common: Surroundings,
    ) -> None:
        self.client_id = client_id
        self.request = request
        self.signature = signature(request)
        self.first_message: str | None = None
        self.farewell: tuple[int, bytes] = WSCloseCode.OK, b""
        self.told = ToldPrompts(common.ledger)
        self.own: OwnSockets | None = None
        self.everywhere = False
        self.feed = ClientFeed(
            client_id,
            ws,
            common.shared.queues,
            on_overflow=self._end,
            on_stuck=self._cut,
            waiting=common.waiting,
            batch=common.shared.batch,
        )
        self._ws = ws
        self.common = common
        self._goodbye: tuple[int, bytes] = WSCloseCode.GOING_AWAY, STOPPING
        self._reading: asyncio.Timeout | None = None
        self._ending = self._over = self.has_spoken = False

    @property
    def deaf(self) -> bool:
        """True if this client is sent nothing any more."""
        return self.feed.muted or self._over or self._ending

    async def greet(self) -> bool:
        """Complete the handshake; False if the client has gone."""
        try:
            await self._ws.prepare(self.request)
        except ConnectionError:
            return False
        self.feed.greet(self.request.transport)
        return True

    async def run(self) -> None:
        """Serve the client until it leaves: pass its messages on, and say goodbye if it has to go.

        Idle clients wait in here, all of them: what it holds it holds as often.
        """
        try:
            if not self._ending:
                async with asyncio.timeout(None) as self._reading:
                    while await take(self, await self._ws.receive()):
                        pass
        except TimeoutError:
            if not self._ending:
                raise
        finally:
            self._reading = None
        if self._ending:
            slow = WSCloseCode.TRY_AGAIN_LATER, b"too slow", DRAIN_TIMEOUT_S
            usual = *self._goodbye, GOODBYE_TIMEOUT_S
            if not await self._ws.goodbye(*(slow if self.feed.traffic.too_slow else usual)):
                self._cut()

    async def ended(self) -> None:
        """The client has left."""
        await self.common.ended(self)

    # --- its sockets at the instances ----------------------------------------------------------

    def begin(self, instances: Iterable[Instance], predecessor: EventSession | None) -> None:
        """Open sockets at ``instances`` and where the predecessor has some, each of those when that
        one has ended: to close it later would make the instance deaf for the new one (PROTOCOL.md
        trap 2)."""
        if predecessor is not None:
            self.told = predecessor.told
            self.everywhere = predecessor.everywhere
            for upstream in predecessor.own.upstreams if predecessor.own is not None else ():
                self.listen_at(upstream.instance, upstream)
        for instance in instances:
            self.listen_at(instance)

    def listen_at(
        self, instance: Instance, predecessor: UpstreamSocket | None = None
    ) -> OwnSockets:
        """Have a socket of its own there, if there is none."""
        own = self.needed()
        if not self.deaf:
            own.upstreams.open(instance, predecessor)
        return own

    def needed(self) -> OwnSockets:
        """What those sockets need, made if there is none of them yet."""
        if self.own is None:
            self.own = OwnSockets(self, self.common)
        return self.own

    def hears_itself(self, instance: Instance) -> bool:
        """Whether a socket of its own tells it of ``instance``."""
        return self.own is not None and instance in self.own.queues

    def broadcast(self, frame: Pass, instance: Instance) -> None:
        """What the shared socket to ``instance`` tells everybody."""
        if self.own is None or self.own.takes_shared(frame, instance):
            self.feed.put(frame)

    # --- its end -----------------------------------------------------------------------------

    def mute(self) -> None:
        """A newer socket has this clientId: this one hears nothing any more, as in ComfyUI."""
        self.feed.muted = True
        self._look_again()

    def stop(self, code: int = WSCloseCode.GOING_AWAY, reason: bytes = STOPPING) -> None:
        """The proxy goes down, or the client may not come in any more (another ``code``)."""
        self._goodbye = code, reason
        self.farewell = WSCloseCode.GOING_AWAY, b""
        if code == WSCloseCode.GOING_AWAY and self.own is not None:
            self.own.upstreams.abandon()
        self._end()
        self.common.shared.look_again()

    async def close(self) -> None:
        """End the sockets to the instances; after it their clientId may be used again."""
        self._over = True
        self.feed.close()
        await self.feed.end()
        if self.own is not None:
            await self.own.close()

    def _end(self) -> None:
        """Read no more; :meth:`run` says goodbye."""
        if not self._ending:
            self._ending = True
            if self._reading is not None:
                self._reading.reschedule(0.0)
            self._look_again()

    def _look_again(self) -> None:
        if self.own is not None:
            self.own.upstreams.look_again()

    def _cut(self) -> None:
        self._end()
        if self.request.transport is not None:
            self.request.transport.abort()


def signature(request: web.Request) -> tuple[object, ...]:
    """What a client says the same of itself in all its requests: servers in front of us add to
    ``X-Forwarded-For``, so users behind one of them differ in that."""
    headers = request.headers
    forwarded = tuple(headers.getall("X-Forwarded-For", []))
    return request.remote, headers.get(hdrs.USER_AGENT), forwarded
