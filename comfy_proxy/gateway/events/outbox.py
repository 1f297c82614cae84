"""What waits to be written to one client: bounded, in order, previews the first to go.

What a connection takes at once is written at once. While anything waits one task writes it: a slow
browser fills its own outbox and delays nobody else. A client for which nothing waits has no task,
and nothing to keep frames in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp import web
from loguru import logger

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

    ``total`` is of all clients; ``on_full`` is called if this one has to go because it holds most
    of that, and ``on_stuck`` if what is being written to it has to go too.
    """

    __slots__ = (
        *("_bytes", "_frames", "_on_full", "_on_stuck", "_open", "_previews", "_total"),
        *("_writer", "_writing", "_ws", "moved_at", "traffic"),
    )

    def __init__(
        self,
        ws: web.WebSocketResponse[bool],
        traffic: SocketTraffic | None = None,
        *,
        total: OutboxSum | None = None,
        on_full: Callable[[], None] = lambda: None,
        on_stuck: Callable[[], None] = lambda: None,
    ) -> None:
        self._ws = ws
        self.traffic = traffic or SocketTraffic()
        self._total = total or OutboxSum()
        self._on_full = on_full
        self._on_stuck = on_stuck
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
        if self._open and self._writer is None:
            self._write_at_once(frame)
            return
        if frame.droppable and self.held + len(frame.data) > PREVIEW_BYTES:
            self._drop_previews()
            if self.held > PREVIEW_BYTES:
                self.traffic.previews_dropped += 1
                return
        if self._full_with(frame):
            self._drop_previews()
            if self._full_with(frame):
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
        self._frames = None
        self._previews = 0
        self._total.changed(self, -freed)

    def begin(self, greeting: Pass | None = None) -> None:
        """Write what waits, the greeting before it, and what comes."""
        self._open = True
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

    def _write_at_once(self, frame: Pass) -> None:
        """Nothing waits: a task is needed only if the connection does not take it as it is."""
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

    def _full_with(self, frame: Pass) -> bool:
        """One frame alone always fits, whatever its size."""
        if not self._frames:
            return False
        return self.held + len(frame.data) > MAX_BYTES or len(self._frames) >= MAX_FRAMES

    def _drop_previews(self) -> None:
        if not self._previews or self._frames is None:
            return
        self._frames = deque(frame for frame in self._frames if not frame.droppable)
        left = sum(len(frame.data) for frame in self._frames)
        freed, self._bytes = self._bytes - left, left
        self.traffic.previews_dropped += self._previews
        self._previews = 0
        self._total.changed(self, -freed)


def _sending(ws: web.WebSocketResponse[bool], data: str | bytes) -> Coroutine[Any, Any, None]:
    return ws.send_str(data) if isinstance(data, str) else ws.send_bytes(data)
