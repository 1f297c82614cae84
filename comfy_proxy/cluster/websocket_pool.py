"""The pool of WebSocket connections to one instance, and one such connection.

At most ``max_connections`` are open; a job beyond that waits, first come first served
(asyncio.Semaphore is fair, and a cancelled waiter leaves no hole). A connection is opened when one
is first needed, kept, and leased to one job at a time. One that breaks is replaced in the
background with backoff and jitter. Each connect uses a FRESH client id: on a reused one ComfyUI may
send nothing any more (PROTOCOL.md trap 2).
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from loguru import logger
from yarl import URL

from comfy_proxy.clock import Clock, sleep
from comfy_proxy.cluster.comfyui_frames import (
    FEATURE_FLAGS,
    ConnectionLost,
    Frame,
    PromptFrame,
    StatusFrame,
    decode_binary,
    decode_text,
)
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.translation import translated
from comfy_proxy.errors import InstanceError, InstanceUnreachableError
from comfy_proxy.metrics.records import PoolWait
from comfy_proxy.observers import tell
from comfy_proxy.tracing import untraced

HEARTBEAT_S = 60.0
"""Seconds of silence after which a ping is sent. aiohttp gives the pong half of that and then ends
the connection: 30 s is far longer than ComfyUI's event loop stands still (trap 8)."""
HANDSHAKE_TIMEOUT_S = 10.0
"""Seconds from the dial to the open WebSocket; beyond, the instance has failed the attempt."""
_CLOSE_TIMEOUT_S = 1.0
"""Seconds for the other side's close frame; then the connection is cut. A hanging instance sends
none, and :meth:`WebSocketPool.close` waits for each socket."""
_FIRST_BACKOFF_S = 0.5
"""Seconds between the first two attempts to replace a socket; doubled after each failure, and each
multiplied by a random 0.5 to 1.5."""
_LONGEST_BACKOFF_S = 30.0
"""Seconds at which the doubling ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolState:
    """What ``/health`` shows of a pool: open and leased sockets, and jobs that wait for one."""

    open: int
    in_use: int
    waiting: int


class PromptSocket:
    """One open WebSocket with a client id of its own.

    ``frames`` is filled while the socket is leased, and ends with a ConnectionLost. Between leases
    frames are read all the same: they tell that the instance lives and how long its queue is.
    ``on_prompt_end`` is called with the id of each prompt whose end is heard.
    """

    def __init__(self, instance: Instance, ws: aiohttp.ClientWebSocketResponse, client_id: str):
        self.client_id = client_id
        self.frames: asyncio.Queue[Frame] = asyncio.Queue()
        self.leased = False
        self.on_prompt_end: Callable[[str], None] = _nobody
        self._instance = instance
        self._ws = ws
        # It serves many jobs, one after the other.
        self._reader = asyncio.create_task(
            self._read(), name=f"frames of {instance.host}", context=untraced()
        )

    @property
    def open(self) -> bool:
        return not self._reader.done()

    def on_end(self, callback: Callable[[PromptSocket], None]) -> None:
        """Call ``callback(socket)`` once when the connection has ended."""
        self._reader.add_done_callback(lambda task: callback(self), context=untraced())

    async def close(self) -> None:
        self._reader.cancel()
        await asyncio.wait([self._reader])
        await self._ws.close()

    async def _read(self) -> None:
        reason = "closed"
        try:
            reason = await self._receive_until_closed()
        finally:
            self._instance.socket_lost()
            self.frames.put_nowait(ConnectionLost(reason=reason))

    async def _receive_until_closed(self) -> str:
        while True:
            message = await self._ws.receive()
            if message.type is aiohttp.WSMsgType.TEXT:
                self._take(decode_text(message.data))
            elif message.type is aiohttp.WSMsgType.BINARY:
                self._take(decode_binary(message.data))
            else:
                error = self._ws.exception()
                return f"closed with code {self._ws.close_code}" if error is None else repr(error)

    def _take(self, frame: Frame | None) -> None:
        self._instance.frame_seen()
        if isinstance(frame, StatusFrame):
            self._instance.prompts.observed(frame.queue_remaining)
        elif isinstance(frame, PromptFrame) and frame.ends_prompt:
            # Told at once, not by the queue of frames: the next `status` does not count the prompt
            # any more, and may be read before the follower of the prompt has its turn. Then a
            # prompt of somebody else's would be missing from the load.
            self.on_prompt_end(frame.prompt_id)
        elif isinstance(frame, PromptFrame) and frame.type == "executed":
            tell(self._instance.on_output, frame.data.get("output"))
        if frame is not None and self.leased:
            self.frames.put_nowait(frame)


def _nobody(prompt_id: str) -> None:
    pass


class WebSocketPool:
    """Leases sockets to one instance, never more than ``max_connections``.

    Their client ids begin with ``client_prefix``, by which a later process knows what was ours.
    """

    def __init__(
        self,
        instance: Instance,
        session: aiohttp.ClientSession,
        *,
        max_connections: int,
        clock: Clock,
        on_wait: Sequence[Callable[[PoolWait], None]] = (),
        client_prefix: str = "",
    ) -> None:
        self._instance = instance
        self._on_wait = on_wait
        self._client_prefix = client_prefix
        self._session = session
        self._clock = clock
        self._slots = asyncio.Semaphore(max_connections)
        self._waiting = 0
        self._in_use: set[PromptSocket] = set()
        self._idle: list[PromptSocket] = []
        self._replacement: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<WebSocketPool {self._instance.host} {self.state}>"

    @property
    def state(self) -> PoolState:
        return PoolState(
            open=len(self._idle) + len(self._in_use),
            in_use=len(self._in_use),
            waiting=self._waiting,
        )

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[PromptSocket]:
        """A socket for one job alone; waits its turn when all are leased.

        Raises an InstanceError when none can be opened.
        """
        await self._turn()
        try:
            socket = self._pop_idle() or await self._connect()
            socket.leased = True
            self._in_use.add(socket)
            try:
                yield socket
            finally:
                self._give_back(socket)
        finally:
            self._slots.release()

    async def listen(self) -> None:
        """Have a socket open even if no job needs one: its ``status`` frames tell the load.

        Waits for a slot if all are leased, and then has nothing to do. Raises an InstanceError when
        none can be opened now; that is tried again in the background.
        """
        async with self._slots:
            if not self._idle and not self._in_use:
                try:
                    self._idle.append(await self._connect(background=True))
                except InstanceError:
                    self._open_later()
                    raise

    async def close(self) -> None:
        """Close every socket and stop replacing them."""
        self._closed = True
        if self._replacement is not None:
            self._replacement.cancel()
            await asyncio.wait([self._replacement])
        await asyncio.gather(*(socket.close() for socket in (*self._idle, *self._in_use)))
        self._idle.clear()

    async def _turn(self) -> None:
        """Wait for a free slot and take it."""
        since = self._clock.monotonic()
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        waited_s = self._clock.monotonic() - since
        tell(self._on_wait, PoolWait(instance=self._instance.host, duration_s=waited_s))

    def _pop_idle(self) -> PromptSocket | None:
        while self._idle:
            socket = self._idle.pop()
            if socket.open:  # else it ended just now, and `_ended` is about to be called
                return socket
        return None

    def _give_back(self, socket: PromptSocket) -> None:
        socket.leased = False
        socket.on_prompt_end = _nobody
        while not socket.frames.empty():
            socket.frames.get_nowait()
        self._in_use.discard(socket)
        if socket.open and not self._closed:
            self._idle.append(socket)

    async def _connect(self, *, background: bool = False) -> PromptSocket:
        self._require_open()
        client_id = f"{self._client_prefix}{uuid.uuid4().hex}"
        url = self._instance.url / "ws" % {"clientId": client_id}
        with self._instance.attempt("ws", background=background), translated(self._instance.host):
            async with self._clock.timeout(HANDSHAKE_TIMEOUT_S):
                ws = await self._open(url)
        socket = PromptSocket(self._instance, ws, client_id)
        socket.on_end(self._ended)
        logger.debug("websocket to {} is open: {}", self._instance.host, self.state)
        return socket

    async def _open(self, url: URL) -> aiohttp.ClientWebSocketResponse:
        ws = await self._session.ws_connect(
            url,
            heartbeat=HEARTBEAT_S,
            max_msg_size=0,  # no limit: a picture's frame may be larger than 12 MB (trap 23)
            timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_TIMEOUT_S),
        )
        try:
            self._require_open()
            await ws.send_str(FEATURE_FLAGS)
        except BaseException:
            await ws.close()
            raise
        return ws

    def _require_open(self) -> None:
        if self._closed:
            raise InstanceUnreachableError(f"The connections to {self._instance.host} are closed.")

    def _ended(self, socket: PromptSocket) -> None:
        if socket in self._idle:
            self._idle.remove(socket)
        self._in_use.discard(socket)
        logger.debug("a websocket to {} ended: {}", self._instance.host, self.state)
        self._open_later()

    def _open_later(self) -> None:
        if self._closed:
            return
        if self._replacement is None or self._replacement.done():
            self._replacement = asyncio.create_task(self._replace())

    async def _replace(self) -> None:
        """Open one socket again, so that a returning instance is heard before a job needs it."""
        backoff_s = _FIRST_BACKOFF_S
        # Where no slot is free jobs have sockets open or are opening them: no other is needed.
        while not self._idle and not self._slots.locked():
            async with self._slots:
                try:
                    self._idle.append(await self._connect(background=True))
                except InstanceError:
                    logger.debug("{} cannot be reached yet", self._instance.host)
                else:
                    return
            await sleep(self._clock, backoff_s * random.uniform(0.5, 1.5))
            backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)
