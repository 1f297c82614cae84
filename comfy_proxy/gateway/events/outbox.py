"""What waits to be written to one client: bounded, in order, previews the first to go.

One writer task for each client: a slow browser fills its own outbox and delays nobody else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from aiohttp import web

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
    """Frames for one WebSocket; :meth:`run` writes them until cancelled.

    ``total`` is of all clients; ``on_full`` is called if this one has to go because it holds most
    of that, and ``on_stuck`` if what is being written to it has to go too.
    """

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
        self._frames: deque[Pass] = deque()
        self._bytes = 0
        self._writing = 0
        self._previews = 0
        self.moved_at = 0.0
        self._filled = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Outbox {len(self._frames)} frames, {self._bytes} bytes>"

    @property
    def held(self) -> int:
        """Bytes that wait, with the frame that is being written."""
        return self._bytes + self._writing

    def put_first(self, frame: Pass) -> None:
        """Before everything that waits: the greeting."""
        self._frames.appendleft(frame)
        self._count(frame, 1)
        self._filled.set()

    def put(self, frame: Pass) -> None:
        """Raises OutboxFullError; nothing is put in then."""
        if frame.droppable and self.held + len(frame.data) > PREVIEW_BYTES:
            self._drop_previews()
            if self.held > PREVIEW_BYTES:
                self.traffic.previews_dropped += 1
                return
        if self._full_with(frame):
            self._drop_previews()
            if self._full_with(frame):
                raise OutboxFullError
        self._frames.append(frame)
        self._count(frame, 1)
        self._filled.set()
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
        self._frames.clear()
        self._previews = 0
        self._total.changed(self, -freed)

    async def run(self) -> None:
        """Write in order. Ends with ConnectionError when the client has gone."""
        try:
            while True:
                while self._frames:
                    await self._write(self._frames.popleft())
                self._filled.clear()
                await self._filled.wait()
        finally:
            self._note_written()

    async def _write(self, frame: Pass) -> None:
        self._writing = len(frame.data)  # before it is counted out: it is held until it is gone
        self._total.changed(self, self._writing)
        self._count(frame, -1)
        if isinstance(frame.data, str):
            await self._ws.send_str(frame.data)
        else:
            await self._ws.send_bytes(frame.data)
        self._note_written()
        self.traffic.to_client(frame.data)

    def _note_written(self) -> None:
        written, self._writing = self._writing, 0
        self.moved_at = self._total.clock.monotonic()
        self._total.changed(self, -written)

    def _full_with(self, frame: Pass) -> bool:
        """One frame alone always fits, whatever its size."""
        if not self._frames:
            return False
        return self.held + len(frame.data) > MAX_BYTES or len(self._frames) >= MAX_FRAMES

    def _count(self, frame: Pass, sign: int) -> None:
        if not self.held:
            self.moved_at = self._total.clock.monotonic()
        self._bytes += sign * len(frame.data)
        self._previews += sign * frame.droppable
        self._total.changed(self, sign * len(frame.data))

    def _drop_previews(self) -> None:
        if not self._previews:
            return
        self._frames = deque(frame for frame in self._frames if not frame.droppable)
        left = sum(len(frame.data) for frame in self._frames)
        freed, self._bytes = self._bytes - left, left
        self.traffic.previews_dropped += self._previews
        self._previews = 0
        self._total.changed(self, -freed)
