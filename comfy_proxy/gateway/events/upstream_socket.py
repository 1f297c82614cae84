"""One socket to one instance: connected, read, and connected again behind its client's back.

ComfyUI keeps one socket a clientId, and when an old one ends, the entry of the new one goes with it
(PROTOCOL.md trap 2). So no two sockets of a clientId may ever overlap at an instance: a new one is
begun when its predecessor has ended, an end is awaited until the instance has confirmed it, and a
handshake that an instance is slow to answer (PROTOCOL.md trap 8) is neither given up nor repeated
for :data:`DIAL_TIMEOUT_S`. Where an instance that stands still has not confirmed an end, or a
handshake was given up, it must have answered another request before the next handshake: by then it
has seen the end.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp import WSMsgType
from loguru import logger

from comfy_proxy.clock import wait_for_event
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.translation import translated
from comfy_proxy.errors import InstanceError, InstanceTimeoutError, InstanceUnreachableError
from comfy_proxy.gateway.events.batch import Batch, Received
from comfy_proxy.gateway.events.frame_reader import FrameReader
from comfy_proxy.gateway.events.frames import Seen, Status
from comfy_proxy.gateway.events.upstream_client import UpstreamClient
from comfy_proxy.tracing import untraced

DIAL_TIMEOUT_S = 30.0
"""Seconds for a check that is due before the handshake, and the handshake itself. Beyond it the
attempt has failed; the instance counts as busy, not as away, while its circuit is closed."""
CLOSE_TIMEOUT_S = 2.0
"""Seconds for an answer to our close frame. Beyond it the connection is cut, and the instance must
answer a check before the next handshake."""
HEARTBEAT_S = 60.0
"""Seconds between our pings; no answer within half of that: the socket is given up."""
_FIRST_BACKOFF_S = 0.25
_LONGEST_BACKOFF_S = 5.0


class UpstreamSocket:
    """A socket to ``instance`` in the name of ``client``, from :meth:`start` to :meth:`close`.

    ``prefixed`` puts the instance into the files of an output; ``batch`` is of all clients;
    ``on_attempt`` is called when an attempt to connect has succeeded or failed. ``attempted`` is
    True from the first of these on; ``failures`` counts those that failed. ``confirmed``: the
    instance knows that its last socket has ended. ``is_connected`` is False as well while its first
    frame is being taken. ``heard_at`` is when a frame came last (monotonic seconds).
    """

    def __init__(
        self,
        client: UpstreamClient,
        instance: Instance,
        cluster: Cluster,
        *,
        prefixed: Callable[[Any, Instance], Any],
        batch: Batch,
        on_attempt: Callable[[], None],
    ) -> None:
        self.instance = instance
        self.attempted = False
        self.failures = 0
        self.confirmed = True
        self.heard_at = -math.inf
        self.is_connected = False
        self.retry = asyncio.Event()
        self._client = client
        self._cluster = cluster
        self._prefixed = lambda output: prefixed(output, instance)
        self._batch = batch
        self._on_attempt = on_attempt
        self._reader = FrameReader(self._prefixed)
        self._ws: aiohttp.ClientWebSocketResponse[bool] | None = None
        self._introduced = False
        self._ending = False
        self._task: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    def start(self, predecessor: UpstreamSocket | None = None) -> None:
        """Connect, when the predecessor has ended, read, and connect again whenever the socket
        ends, until :meth:`close`."""
        self._task = asyncio.create_task(
            self._run(predecessor), name=f"events of {self.instance.host}", context=untraced()
        )

    async def send(self, data: str | bytes) -> None:
        """A message of the client; lost if the instance is away, as it would be without us."""
        if self._ws is None or self._ws.closed:
            return
        send: Any = self._ws.send_str if isinstance(data, str) else self._ws.send_bytes
        try:
            await send(data)
        except ConnectionError:
            logger.debug("events of {}: gone while writing", self.instance.host)

    async def introduce(self) -> None:
        """Send the client's feature flags, once a socket: as the very first message they count."""
        if self._ws is None or self._introduced or self._client.first_message is None:
            return
        self._introduced = True
        await self.send(self._client.first_message)

    async def close(self) -> None:
        """End for good; returns when the socket is no more and the instance has confirmed it.

        Whoever asks, and however often, waits for the same end.
        """
        if self._closing is None:
            self._ending = True
            self.is_connected = False
            self._closing = asyncio.create_task(self._end(), name=f"end {self.instance.host}")
        await asyncio.shield(self._closing)

    async def renew(self) -> None:
        """Nothing comes on it though it should: end it, and connect again."""
        if self.is_connected and not self._ending:
            logger.info("events of {}: silent, and connected again", self.instance.host)
            await self._hang_up()

    def abandon(self) -> None:
        """The proxy goes down, nobody comes after: do not wait for a handshake."""
        self._ending = True
        self.is_connected = False
        if self._task is not None:
            self._task.cancel()

    async def _end(self) -> None:
        self.retry.set()
        await self._hang_up()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _hang_up(self) -> None:
        if self._ws is None:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                code, reason = self._client.farewell
                await self._ws.close(code=code, message=reason)
        except TimeoutError:
            self.confirmed = False
        if _ended_in_silence(self._ws):
            self.confirmed = False

    async def _run(self, predecessor: UpstreamSocket | None) -> None:
        try:
            if predecessor is not None:
                await predecessor.close()
                self.confirmed = predecessor.confirmed
                predecessor = None  # a chain of all that ever were is not to stay in memory
            backoff_s = _FIRST_BACKOFF_S
            while not self._ending:
                if await self._connect():
                    backoff_s = _FIRST_BACKOFF_S
                    assert self._ws is not None
                    received = Received(self._ws, self._batch)
                    try:
                        while (seen := _seen(await received, self._reader)) is not False:
                            self._take(seen, self.instance.frame_seen())
                    finally:
                        self._batch.write()
                    self._lost()
                await self._pause(backoff_s)
                backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)
        finally:
            await self._hang_up()

    async def _connect(self) -> bool:
        """One attempt; True if the socket is there and its first ``status`` was read.

        While the circuit of the instance is open no client dials it: they share one check.
        """
        try:
            if not await self._cluster.healthy([self.instance]):
                raise InstanceUnreachableError(f"{self.instance.host} is away.")
            with self.instance.attempt("ws", background=True), translated(self.instance.host):
                async with self._cluster.clock.timeout(DIAL_TIMEOUT_S):
                    await self._open()
        except InstanceError as error:
            logger.debug("events of {}: {}", self.instance.host, error.message)
            self.failures += 1
            await self._failed(error)
        else:
            if not self._ending:
                self.is_connected = True
                self._client.connected(self.instance)
        self.attempted = True
        self._on_attempt()
        return self.is_connected

    async def _failed(self, error: InstanceError) -> None:
        await self._hang_up()
        if isinstance(error, InstanceTimeoutError):
            self.confirmed = False
            if self.instance.healthy:
                return  # busy, not dead (PROTOCOL.md trap 8): what waits there still does
        self._client.away(self.instance)

    async def _open(self) -> None:
        if not self.confirmed:
            await self._cluster.clients[self.instance].check(DIAL_TIMEOUT_S)
            self.confirmed = True
        session = self._cluster.connections.fresh_session(self.instance)
        query, headers = self._client.handshake(self.instance)
        self._reader = FrameReader(self._prefixed)  # what ran before may have ended unheard
        self._introduced = False
        self._ws = await session.ws_connect(
            (self.instance.url / "ws").with_query(query),
            headers=headers,
            heartbeat=HEARTBEAT_S,
            max_msg_size=0,
            compress=0,
            timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
        )
        await self.introduce()
        if (seen := _seen(await self._ws.receive(), self._reader)) is False:
            raise InstanceUnreachableError(f"{self.instance.host} ended the socket at once.")
        self._take(seen, self._cluster.clock.monotonic())

    def _take(self, seen: Any, now: float) -> None:
        if self._ending:
            return
        self.heard_at = now
        if type(seen) is Status:
            self.instance.prompts.observed(seen.queue_remaining)
        self._client.take(self, seen)

    def _lost(self) -> None:
        """Its prompts may well run on: the sum keeps them until a new attempt has failed."""
        self.is_connected = False
        if self._ws is not None and _ended_in_silence(self._ws):
            self.confirmed = False
        if not self._ending:
            self._client.lost(self.instance)
            self.instance.socket_lost()

    async def _pause(self, backoff_s: float) -> None:
        """Wait until the next attempt: ``backoff_s``, or until a check succeeds.

        While the circuit is open a check has to succeed; one is made about once a second.
        """
        if self._ending:
            return
        self.retry.clear()
        if self.instance.healthy:
            jitter = random.uniform(0.8, 1.2)
            await wait_for_event(self._cluster.clock, self.retry, backoff_s * jitter)
        else:
            with self._cluster.health_checker.demand():
                await self.retry.wait()


def _seen(message: Any, reader: FrameReader) -> Seen | bool:
    """What a message says; False if it is the socket's end."""
    if message.type is WSMsgType.TEXT:
        return reader.text(message.data)
    if message.type is WSMsgType.BINARY:
        return reader.binary(message.data)
    return False


def _ended_in_silence(ws: aiohttp.ClientWebSocketResponse[bool]) -> bool:
    """No answer came to a ping or to our close frame. Any other end the instance has seen too."""
    return isinstance(ws.exception(), TimeoutError)
