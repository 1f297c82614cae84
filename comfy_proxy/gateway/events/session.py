"""One client's socket over all instances: status summed, everything else in order and once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, hdrs, web

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.dispatch.second_tries import SecondTries
from comfy_proxy.gateway.custom.askers import Askers
from comfy_proxy.gateway.events.booking import FrameBooking
from comfy_proxy.gateway.events.client_feed import ClientFeed
from comfy_proxy.gateway.events.frames import NOT_HEARD, Began, Ended, OfPrompt, Seen, message_kind
from comfy_proxy.gateway.events.missed_ends import MissedEnds
from comfy_proxy.gateway.events.outbox_sum import OutboxSum
from comfy_proxy.gateway.events.sums import QueueSum
from comfy_proxy.gateway.events.told_prompts import ToldPrompts
from comfy_proxy.gateway.events.upstream_socket import UpstreamSocket
from comfy_proxy.gateway.events.upstreams import Upstreams
from comfy_proxy.gateway.exchange.context import STOPPING
from comfy_proxy.gateway.files.made_files import MadeFiles
from comfy_proxy.ledger.ledger import Ledger

GOODBYE_TIMEOUT_S = 2.0
"""Seconds that a client has to answer a close frame of ours. Beyond it the connection is cut."""
DRAIN_TIMEOUT_S = 10.0
"""Seconds that a client that reads too slowly has to read up to its close frame. Beyond it the
connection is cut. It is longer than for others because what was written already comes before it."""
_UNSENDABLE = (0, 1005, 1006, 1015)
"""No code at all, and those that must not be on the wire (RFC 6455 7.4.1)."""


class EventSession:
    """The client's own socket, what it is sent (``feed``) and its ``upstreams``.

    ``client_id`` is the client's own, or made here for one that has none (its ``sid``). ``told`` is
    what it has been told of its prompts.
    ``prefixed`` puts an instance into the files of an output; ``in_flags`` makes of one instance's
    feature flags those of all. ``connected`` is told of each new socket at an instance.
    ``waiting`` is what waits for all clients. ``farewell`` is the code and reason with which its
    sockets to the instances end; ``first_message`` its feature flags, if it began with them.
    """

    signature: tuple[object, ...] | None = None
    """What its handshake says of it, as soon as there is one."""
    _goodbye: tuple[int, bytes] = WSCloseCode.GOING_AWAY, STOPPING

    def __init__(
        self,
        client_id: str,
        cluster: Cluster,
        ledger: Ledger,
        *,
        told: ToldPrompts,
        made_files: MadeFiles,
        askers: Askers,
        connected: Callable[[str, Instance], None],
        prefixed: Callable[[Any, Instance], Any],
        in_flags: Callable[[str], str],
        waiting: OutboxSum,
    ) -> None:
        self.client_id = client_id
        self.first_message: str | None = None
        self.farewell: tuple[int, bytes] = WSCloseCode.OK, b""
        # As in ComfyUI a message of the client has at most 4 MiB, which is aiohttp's default.
        self._ws: web.WebSocketResponse[bool] = web.WebSocketResponse(
            compress=False, timeout=GOODBYE_TIMEOUT_S
        )
        self._end = asyncio.Event()
        self._ledger, self.told, self._connected = ledger, told, connected
        second_tries = SecondTries.of(cluster, ledger)
        self._booking = FrameBooking(client_id, ledger, made_files, second_tries, askers)
        self.feed = ClientFeed(
            client_id,
            self._ws,
            QueueSum(cluster.instances, ledger),
            clock=cluster.clock,
            in_flags=in_flags,
            on_overflow=self._end.set,
            on_stuck=self._cut,
            waiting=waiting,
        )
        self.upstreams = Upstreams(self, cluster, prefixed)
        self.missed_ends = MissedEnds(cluster, told, self.feed, self.upstreams, prefixed)
        self._request: web.Request | None = None
        self._spoken = False
        self._over = False

    @property
    def deaf(self) -> bool:
        """True if this client is sent nothing any more."""
        return self.feed.muted or self._over or self._end.is_set()

    def start(self, request: web.Request, predecessor: EventSession | None) -> None:
        """Begin to connect to all instances, to each when the predecessor has left it."""
        self._request, self.signature = request, signature(request)
        self.upstreams.start(request, None if predecessor is None else predecessor.upstreams)

    def resume(self, successor: EventSession) -> bool:
        """The newer socket of this clientId came to nothing: hear again, unless it is over."""
        if self._request is None or self._over or self._end.is_set():
            return False
        self.feed.muted = False
        self.feed.queues.begin_anew()
        self.upstreams.restart(self._request, successor.upstreams)
        return True

    async def run(self, request: web.Request) -> web.WebSocketResponse[bool]:
        """Serve the client until it leaves. Upstream sockets are there before its 101."""
        try:
            await self._ws.prepare(request)
        except ConnectionError:
            return self._ws
        self.feed.greet()
        reader = asyncio.create_task(self._read(), name=f"reader of {self.client_id}")
        writer = asyncio.create_task(self.feed.run(), name=f"writer of {self.client_id}")
        end = asyncio.create_task(self._end.wait(), name=f"end of {self.client_id}")
        scans = asyncio.create_task(self.feed.scans.run(), name=f"scans of {self.client_id}")
        tasks = [reader, writer, end, scans]
        try:
            await asyncio.wait([reader, end], return_when=asyncio.FIRST_COMPLETED)
            if end.done():
                await self._say_goodbye(request)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        return self._ws

    # --- what its upstream sockets tell ------------------------------------------------------

    def take(self, upstream: UpstreamSocket, seen: Seen) -> None:
        """What an instance sent, in the order in which it came: on record first, then told."""
        instance = upstream.instance
        if isinstance(seen, Began):
            self.missed_ends.began(seen.prompt_id, instance)
        if isinstance(seen, Ended) and seen.broadcast and not self.told.knows(seen.prompt_id):
            prompt = self._ledger.find(seen.prompt_id)
            if prompt is None or prompt.client_id != self.client_id:
                seen = seen.frame
        if not self._booking.book(seen, instance):
            return
        shown = self.told.passed(seen, instance) if isinstance(seen, OfPrompt) else seen
        self.feed.take(shown, instance, is_greeting=not upstream.connected.is_set())

    def connected(self, instance: Instance) -> None:
        """A new socket is there."""
        self.feed.scans.lost(instance)
        self._connected(self.client_id, instance)

    def lost(self, instance: Instance) -> None:
        """The socket there has ended."""
        self.missed_ends.lost(instance)

    def away(self, instance: Instance) -> None:
        """It cannot be reached: nothing waits there, unless it may go on elsewhere."""
        self.feed.scans.lost(instance)
        if self._ledger.doubtful(instance):
            return  # they count where they are until it is known whether they go on elsewhere
        self.queue_lost(instance)
        self.feed.sum_corrected()

    def queue_lost(self, instance: Instance, *, hung: bool = True) -> bool:
        """What its frames told is old if none can come; the client is told nothing. True if so.

        ``hung``: it counts as well if frames are not to be expected, because its circuit is open.
        """
        connected = self.upstreams[instance].connected.is_set()
        if connected and (instance.healthy or not hung):
            return False
        self.feed.queues.untold(instance)
        return True

    # --- its end -----------------------------------------------------------------------------

    def mute(self) -> None:
        """A newer socket has this clientId: this one hears nothing any more, as in ComfyUI."""
        self.feed.muted = True
        self.upstreams.look_again()

    def stop(self, code: int = WSCloseCode.GOING_AWAY, reason: bytes = STOPPING) -> None:
        """The proxy goes down, or the client may not come in any more (another ``code``)."""
        self._goodbye = code, reason
        self.farewell = WSCloseCode.GOING_AWAY, b""
        if code == WSCloseCode.GOING_AWAY:
            self.upstreams.abandon()
        self._end.set()
        self.upstreams.look_again()

    async def close(self) -> None:
        """End the sockets to the instances; after it their clientId may be used again."""
        self._over = True
        self.missed_ends.close()
        self.feed.close()
        await self.upstreams.close()

    async def _say_goodbye(self, request: web.Request) -> None:
        """Close; one that does not read as far as that is cut off."""
        code, reason, timeout_s = (
            (WSCloseCode.TRY_AGAIN_LATER, b"too slow", DRAIN_TIMEOUT_S)
            if self.feed.traffic.too_slow
            else (*self._goodbye, GOODBYE_TIMEOUT_S)
        )
        try:
            async with asyncio.timeout(timeout_s):
                await self._ws.close(code=code, message=reason)
        except TimeoutError:
            self._cut()

    def _cut(self) -> None:
        self._end.set()
        if self._request is not None and self._request.transport is not None:
            self._request.transport.abort()

    async def _read(self) -> None:
        """Pass the client's messages on until it closes."""
        while True:
            message = await self._ws.receive()
            if message.type is WSMsgType.CLOSE and message.data not in _UNSENDABLE:
                self.farewell = message.data, (message.extra or "").encode()
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return
            self.feed.traffic.to_instance(message.data)
            if not self._spoken and (kind := message_kind(message.data)) is not NOT_HEARD:
                self._spoken = True
                if kind == "feature_flags":
                    self.first_message = message.data
                    await self.upstreams.introduce()
                    continue
            await self.upstreams.send(message.data)


def signature(request: web.Request) -> tuple[object, ...]:
    """What a client says the same of itself in all its requests: servers in front of us add to
    ``X-Forwarded-For``, so users behind one of them differ in that."""
    headers = request.headers
    forwarded = tuple(headers.getall("X-Forwarded-For", []))
    return request.remote, headers.get(hdrs.USER_AGENT), forwarded
