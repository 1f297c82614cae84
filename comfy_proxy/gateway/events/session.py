"""One client's socket over all instances: status summed, everything else in order and once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import WSCloseCode, WSMsgType, web
from loguru import logger

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_ends import told_by_frame
from comfy_proxy.gateway.events.frames import (
    NOT_HEARD,
    AtNode,
    Began,
    Ended,
    Executed,
    Flags,
    Pass,
    Seen,
    Status,
    message_kind,
    status_frame,
)
from comfy_proxy.gateway.events.leg import EventLeg
from comfy_proxy.gateway.events.outbox import Outbox, OutboxFullError
from comfy_proxy.gateway.events.sums import UntoldArrivals
from comfy_proxy.gateway.exchange.socket_traffic import SocketTraffic
from comfy_proxy.ledger import events
from comfy_proxy.ledger.prompt import End

if TYPE_CHECKING:
    from comfy_proxy.gateway.gateway import Gateway

CONNECT_TIMEOUT_S = 5.0
"""So long a client waits for a first instance."""
JOIN_TIMEOUT_S = 1.0
"""So long it then waits for the others; one that is slower joins later."""
GOODBYE_TIMEOUT_S = 2.0
"""How long a client has to answer a close frame of ours."""
DRAIN_TIMEOUT_S = 10.0
"""How long a client that reads too slowly has to read up to its close frame."""


class EventSession:
    """``client_id`` is the client's own, or made here for one that has none (its ``sid``).

    ``farewell`` is the code and reason with which its sockets to the instances end; ``mark`` puts
    an instance into the files of an output.
    """

    def __init__(
        self,
        client_id: str,
        gateway: Gateway,
        mark: Callable[[Any, Instance], Any] = lambda output, instance: output,
    ) -> None:
        self.client_id = client_id
        self.first_message: str | None = None
        self.farewell: tuple[int, bytes] = WSCloseCode.OK, b""
        self._gateway = gateway
        self._mark = mark
        # As in ComfyUI a message of the client has at most 4 MiB, which is aiohttp's default.
        self._ws: web.WebSocketResponse[bool] = web.WebSocketResponse(
            compress=False, timeout=GOODBYE_TIMEOUT_S
        )
        self.traffic = SocketTraffic()
        self._outbox = Outbox(self._ws, self.traffic)
        self._request: web.Request | None = None
        self._legs = self._new_legs()
        self.arrivals = UntoldArrivals(gateway.ledger)
        self._changed = asyncio.Event()
        self._end = asyncio.Event()
        self._close_code = WSCloseCode.SERVICE_RESTART
        self._greeted = False
        self._told_sum = 0
        self._flags_answered = False
        self._spoken = False
        self._muted = False
        self._over = False

    @property
    def legs(self) -> Mapping[Instance, EventLeg]:
        return self._legs

    @property
    def deaf(self) -> bool:
        """True if this client is sent nothing any more."""
        return self._muted or self._over or self._end.is_set()

    def start(self, request: web.Request, predecessor: EventSession | None) -> None:
        """Begin to connect to all instances, to each when the predecessor has left it."""
        self._request = request
        for instance, leg in self._legs.items():
            leg.start(request, predecessor.legs[instance] if predecessor is not None else None)

    def resume(self, successor: EventSession) -> bool:
        """The newer socket of this clientId came to nothing: hear again, unless it is over."""
        if self._request is None or self._over or self._end.is_set():
            return False
        self._muted = False
        self._legs = self._new_legs()
        self.start(self._request, successor)
        return True

    async def connected(self) -> bool:
        """Wait for the instances; False if there is none at all.

        One that a newer socket replaced meanwhile is served too, deaf, as by ComfyUI.
        """
        legs = self._legs.values()
        await self._until(
            lambda: (
                any(leg.connected.is_set() for leg in legs) or all(leg.attempted for leg in legs)
            ),
            CONNECT_TIMEOUT_S,
        )
        if not (self._muted or any(leg.connected.is_set() for leg in legs)):
            return False
        await self._until(
            lambda: all(leg.attempted or not leg.instance.healthy for leg in legs), JOIN_TIMEOUT_S
        )
        return True

    async def joined(self, instance: Instance, timeout_s: float) -> bool:
        """Wait for the socket at ``instance``, but for no longer than the next attempt fails."""
        leg = self._legs[instance]
        failures = leg.failures
        leg.retry.set()
        await self._until(lambda: leg.connected.is_set() or leg.failures > failures, timeout_s)
        return leg.connected.is_set()

    async def run(self, request: web.Request) -> web.WebSocketResponse[bool]:
        """Serve the client until it leaves. Upstream sockets are there before its 101."""
        try:
            await self._ws.prepare(request)
        except ConnectionError:
            return self._ws
        self._told_sum = self._remaining()
        self._outbox.put_first(Pass(data=status_frame(self._told_sum, self.client_id)))
        self._greeted = True
        reader = asyncio.create_task(self._read(), name=f"reader of {self.client_id}")
        writer = asyncio.create_task(self._write(), name=f"writer of {self.client_id}")
        end = asyncio.create_task(self._end.wait(), name=f"end of {self.client_id}")
        tasks = [reader, writer, end]
        try:
            await asyncio.wait([reader, end], return_when=asyncio.FIRST_COMPLETED)
            if end.done():
                await self._say_goodbye(request)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        return self._ws

    def take(self, leg: EventLeg, seen: Seen) -> None:
        """What an instance sent, in the order in which it came."""
        if isinstance(seen, Status):
            self.arrivals.told(leg.instance, seen.queue_remaining)
            if leg.connected.is_set():
                self.status_changed()
            else:  # the greeting of that instance; the client has had its own
                self.sum_corrected()
        elif isinstance(seen, Flags):
            if not self._flags_answered:
                self._flags_answered = True
                self._put(Pass(data=self._gateway.upload_limits.in_flags(seen.text)))
        elif isinstance(seen, Began):
            self._gateway.ledger.apply(
                events.Began(prompt_id=seen.prompt_id, instance=leg.instance)
            )
            self._put(seen.frame)
        elif isinstance(seen, AtNode):
            self._at_node(seen, leg.instance)
            self._put(seen.frame)
        elif isinstance(seen, Executed):
            self._gateway.made_files.heard(seen.output, leg.instance)
            self._put(seen.frame)
        elif isinstance(seen, Ended):
            told = told_by_frame(seen.kind, seen.data, worked=True)
            self._gateway.ledger.apply(
                events.EndTold(prompt_id=seen.prompt_id, instance=leg.instance, end=End.of(told))
            )
            self._put(seen.frame)
        elif seen is not None:
            self._put(seen)

    def tell(self, text: str) -> None:
        """Send a frame that no instance sent, of a prompt that none of them has."""
        self._put(Pass(data=text))

    def _at_node(self, seen: AtNode, instance: Instance) -> None:
        """Of a prompt that the frame does not name the ledger knows whether it is this client's."""
        prompt_id, ledger = seen.prompt_id, self._gateway.ledger
        if prompt_id is None:
            running = ledger.running(instance)
            if running is None or running.client_id != self.client_id:
                return
            prompt_id = running.prompt_id
        ledger.apply(events.NodeReached(prompt_id=prompt_id, instance=instance, node=seen.node))

    def leg_changed(self) -> None:
        """An attempt to connect to an instance has succeeded or failed."""
        self._changed.set()

    def status_changed(self) -> None:
        """Tell the client how many prompts wait or run, on all instances."""
        if self._greeted:  # the greeting has the sum of its moment
            self._told_sum = self._remaining()
            self._put(Pass(data=status_frame(self._told_sum)))

    def sum_corrected(self) -> None:
        """What the client was told last may be wrong, and no frame of an instance will tell."""
        if self._remaining() != self._told_sum:
            self.status_changed()

    def away(self, leg: EventLeg) -> None:
        """Its instance cannot be reached: nothing waits there, unless it is to be rescued."""
        if self._gateway.ledger.doubtful(leg.instance):
            return  # they count where they are until it is known whether they go on elsewhere
        self.queue_lost(leg.instance)
        self.sum_corrected()

    def queue_lost(self, instance: Instance) -> None:
        """Forget what its frames told; the client is told nothing."""
        if not self._legs[instance].connected.is_set():
            self._legs[instance].remaining = 0
            self.arrivals.told(instance, 0)

    def mute(self) -> None:
        """A newer socket has this clientId: this one hears nothing any more, as in ComfyUI."""
        self._muted = True
        self._changed.set()

    def stop(self) -> None:
        """The proxy goes down."""
        self.farewell = WSCloseCode.GOING_AWAY, b""
        for leg in self._legs.values():
            leg.abandon()
        self._end.set()
        self._changed.set()

    async def close_legs(self) -> None:
        """End the sockets to the instances; after it their clientId may be used again."""
        self._over = True
        await asyncio.gather(*(leg.close() for leg in self._legs.values()))

    def _new_legs(self) -> dict[Instance, EventLeg]:
        cluster = self._gateway.cluster
        return {one: EventLeg(self, one, cluster, self._mark) for one in cluster.instances}

    async def _until(self, enough: Callable[[], bool], timeout_s: float) -> None:
        try:
            async with self._gateway.cluster.clock.timeout(timeout_s):
                while not (enough() or self._muted or self._end.is_set()):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return

    def _remaining(self) -> int:
        shown = sum(leg.remaining for leg in self._legs.values())
        return shown + self._gateway.ledger.transit.nowhere + self.arrivals.total

    def _put(self, frame: Pass) -> None:
        if self._muted:
            return
        try:
            self._outbox.put(frame)
        except OutboxFullError:
            self.traffic.too_slow = True
            self._muted = True
            self._outbox.clear()
            logger.warning("client {} reads too slowly and is disconnected", self.client_id)
            self._close_code = WSCloseCode.TRY_AGAIN_LATER
            self._end.set()

    async def _say_goodbye(self, request: web.Request) -> None:
        """Close; one that does not read as far as that is cut off."""
        slow = self._close_code is WSCloseCode.TRY_AGAIN_LATER
        reason = b"too slow" if slow else b"the proxy is stopping"
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_S if slow else GOODBYE_TIMEOUT_S):
                await self._ws.close(code=self._close_code, message=reason)
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()

    async def _write(self) -> None:
        try:
            await self._outbox.run()
        except ConnectionError:
            logger.debug("client {} has gone", self.client_id)

    async def _read(self) -> None:
        while True:
            message = await self._ws.receive()
            if message.type is WSMsgType.CLOSE and message.data not in _UNSENDABLE:
                self.farewell = message.data, (message.extra or "").encode()
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return
            self.traffic.to_instance(message.data)
            legs = self._legs.values()
            if not self._spoken and (kind := message_kind(message.data)) is not NOT_HEARD:
                self._spoken = True
                if kind == "feature_flags":
                    self.first_message = message.data
                    await asyncio.gather(*(leg.introduce() for leg in legs))
                    continue
            await asyncio.gather(*(leg.send(message.data) for leg in legs))


_UNSENDABLE = (0, 1005, 1006, 1015)
"""No code at all, and those that must not be on the wire (RFC 6455 7.4.1)."""
