"""What waits to be written to one client: bounded, in order, previews the first to go.

What a connection takes at once is written at once, and what came together as one (``batch.py``).
While anything waits one task writes it: a slow browser fills its own outbox and delays nobody else.
A client for which nothing waits has no task, and nothing to keep frames in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp import web
from loguru import logger

from comfy_proxy.gateway.events.batch import Batch, Kept
from comfy_proxy.gateway.events.begun import Begun, begin
from comfy_proxy.gateway.events.frames import Pass
from comfy_proxy.gateway.events.outbox_sum import OutboxSum
from comfy_proxy.gateway.exchange.socket_traffic import SocketTraffic

MAX_BYTES = 128 * 2**20
"""Bytes that may wait. Beyond it the client counts as one that does not read, and is disconnected.
One frame alone is let in whatever its size: ComfyUI's are larger than 12 MB at times (PROTOCOL.md
trap 23). ``outbox_sum.py`` bounds all clients together."""
PREVIEW_BYTES = 8 * 2**20
"""Bytes that may wait for a preview still to be put in. Beyond it those that wait are dropped, and
if that is not enough the new one too: the next one shows more than any of them."""
MAX_FRAMES = 50_000
"""Frames that may wait, however small. Beyond it as beyond MAX_BYTES."""


class OutboxFullError(Exception):
    """The client reads too slowly to be kept."""


class Outbox:
    """Frames for one WebSocket, written from :meth:`begin` to :meth:`end`.

    ``total`` and ``batch`` are of all clients; ``on_full`` is called if this one has to go because
    it holds most of that, and ``on_stuck`` if what is being written to it has to go too.
    """

    __slots__ = (
        *("_batch", "_bytes", "_frames", "_kept", "_on_full", "_on_stuck", "_open"),
        *("_previews", "_total", "_transport", "_writer", "_writing", "_ws", "moved_at", "traffic"),
    )

    def __init__(
        self,
        ws: web.WebSocketResponse[bool],
        traffic: SocketTraffic | None = None,
        *,
        total: OutboxSum | None = None,
        batch: Batch | None = None,
        on_full: Callable[[], None] = lambda: None,
        on_stuck: Callable[[], None] = lambda: None,
    ) -> None:
        self._ws = ws
        self.traffic = traffic or SocketTraffic()
        self._total = total or OutboxSum()
        self._on_full = on_full
        self._on_stuck = on_stuck
        self._batch = batch or Batch()
        self._kept: Kept | None = None
        self._transport: asyncio.Transport | None = None
        self._frames: deque[Pass] | None = None
        self._bytes = 0
        self._writing = 0
        self._previews = 0
        self.moved_at = 0.0
        self._open = False
        self._writer: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Outbox {len(self._frames or ())} frames, {self._bytes} bytes>"

    @property
    def held(self) -> int:
        """Bytes that wait, with the frame that is being written."""
        return self._bytes + self._writing

    def put(self, frame: Pass) -> None:
        """Raises OutboxFullError; nothing is put in then."""
        if self._open and self._writer is None and self._transport is not None:
            if self._batch.collects:
                if self._kept is None:
                    self._kept = Kept()
                    self._batch.add(self)
                if self._kept.takes(frame):
                    return
            if self._kept is not None:
                self.write_kept()
        self._put_now(frame)

    def write_kept(self) -> None:
        """See :class:`Keeper`, of batch.py."""
        kept, self._kept = self._kept, None
        if kept is None or not self._open or self._transport is None:
            return
        if kept.write(self._ws, self._transport):
            for frame in kept.frames:
                self.traffic.to_client(frame.data)
            return
        try:
            for frame in kept.frames:
                self._put_now(frame)
        except OutboxFullError:
            self._on_full()

    def _put_now(self, frame: Pass) -> None:
        """Write ``frame``, or put it where the rest waits. If nothing waits, a task is needed only
        for what the connection does not take at once. Raises as :meth:`put`."""
        if self._open and self._writer is None:
            try:
                begun = begin(_sending(self._ws, frame.data))
            except ConnectionError:
                self._gone()
                return
            if begun is None:
                self.traffic.to_client(frame.data)
                return
            self._writing = len(frame.data)
            self.moved_at = self._total.clock.monotonic()
            self._total.changed(self, self._writing)
            self._write_on(begun, frame)
            self._total.make_room()
            return
        if frame.droppable and self.held + len(frame.data) > PREVIEW_BYTES:
            self._drop_previews()
            if self.held > PREVIEW_BYTES:
                self.traffic.previews_dropped += 1
                return
        if _is_full(self._frames, self.held, frame):
            self._drop_previews()
            if _is_full(self._frames, self.held, frame):
                raise OutboxFullError
        self._keep(frame)

    def _keep(self, frame: Pass, *, first: bool = False) -> None:
        if not self.held:
            self.moved_at = self._total.clock.monotonic()
        self._frames = self._frames or deque()
        if first:
            self._frames.appendleft(frame)
        else:
            self._frames.append(frame)
        self._bytes += len(frame.data)
        self._previews += frame.droppable
        self._total.changed(self, len(frame.data))
        self._write_on()
        self._total.make_room()

    def give_way(self) -> None:
        """See ``outbox_sum.Holder``."""
        if self._previews:
            self._drop_previews()
        elif self._frames:
            self.clear()
            self._on_full()
        else:
            self._note_written()
            self._on_stuck()

    def clear(self) -> None:
        """Forget what waits."""
        freed, self._bytes = self._bytes, 0
        self._frames = self._kept = None
        self._previews = 0
        self._total.changed(self, -freed)

    def begin(
        self, greeting: Pass | None = None, transport: asyncio.Transport | None = None
    ) -> None:
        """Write what waits, the greeting before it, and what comes. ``transport`` is the socket's:
        frames that were kept back are written to it as one; without it none is kept back."""
        self._open = True
        self._transport = transport
        if greeting is not None:
            self._keep(greeting, first=True)
        elif self._frames:
            self._write_on()

    async def end(self) -> None:
        """Write no more, and let go of what is being written."""
        self._open = False
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait([self._writer])

    def _write_on(self, begun: Begun | None = None, frame: Pass | None = None) -> None:
        if self._open and self._writer is None:
            self._writer = asyncio.create_task(self._write_all(begun, frame))

    async def _write_all(self, begun: Begun | None, frame: Pass | None) -> None:
        """In order, what is being written first, until nothing waits or the client has gone."""
        try:
            if begun is not None and frame is not None:
                await begun
                self._note_written(frame)
            while self._frames:
                frame = self._frames.popleft()
                self._writing = len(frame.data)  # held until it is gone: the sum is the same
                self._bytes -= self._writing
                self._previews -= frame.droppable
                await _sending(self._ws, frame.data)
                self._note_written(frame)
        except ConnectionError:
            self._gone()
        finally:
            self._frames = self._frames or None
            self._writer = None
            self._note_written()

    def _gone(self) -> None:
        """The client has left while it was written to."""
        self._open = False
        self.clear()
        logger.debug("a client has gone while it was written to")

    def _note_written(self, frame: Pass | None = None) -> None:
        """``frame`` was written, or what was being written is given up."""
        if frame is not None:
            self.traffic.to_client(frame.data)
        if not self._writing:
            return
        written, self._writing = self._writing, 0
        self.moved_at = self._total.clock.monotonic()
        self._total.changed(self, -written)

    def _drop_previews(self) -> None:
        if not self._previews or self._frames is None:
            return
        self._frames = deque(frame for frame in self._frames if not frame.droppable)
        left = sum(len(frame.data) for frame in self._frames)
        freed, self._bytes = self._bytes - left, left
        self.traffic.previews_dropped += self._previews
        self._previews = 0
        self._total.changed(self, -freed)


def _is_full(waiting: deque[Pass] | None, held: int, frame: Pass) -> bool:
    """One frame alone always fits, whatever its size."""
    if not waiting:
        return False
    return held + len(frame.data) > MAX_BYTES or len(waiting) >= MAX_FRAMES


def _sending(ws: web.WebSocketResponse[bool], data: str | bytes) -> Coroutine[Any, Any, None]:
    return ws.send_str(data) if isinstance(data, str) else ws.send_bytes(data)
