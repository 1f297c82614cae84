"""Frames that came together are written together: one system call for each client, not for each
frame.

When an instance sends much in a short time, what is read from its socket at once has several
frames. They are taken one after the other without a pause. What they tell a client is kept back
until the last of them has been taken, or until it is KEPT_BYTES, and then written as one. No timer
is set: it is written before anything is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, Final, Protocol

from aiohttp import ClientWebSocketResponse, web

from comfy_proxy.gateway.events.begun import Begun
from comfy_proxy.gateway.events.frames import Pass

KEPT_BYTES: Final = 8_192
"""Bytes (of text: characters) that are kept back for one client. Beyond it they are written, so
that the first of very many frames does not wait for the last; and a frame that is larger by itself
is written at once, after them. What is kept back does not count as waiting (outbox_sum.py): it is
less than the 64 KiB that aiohttp takes for a connection before it lets anybody wait."""


class Keeper(Protocol):
    """What keeps frames back for one client: an outbox."""

    def write_kept(self) -> None:
        """Write what was kept back, or put it where the rest waits. Raises nothing."""


class Batch:
    """One for all clients of an application; ``collects`` while frames are being taken."""

    __slots__ = ("_keepers", "collects")

    def __init__(self) -> None:
        self.collects = False
        self._keepers: list[Keeper] = []

    def __repr__(self) -> str:
        return f"<Batch of {len(self._keepers)} clients>"

    def add(self, keeper: Keeper) -> None:
        """To be called once by ``keeper`` when it keeps something back: it is told to write it."""
        self._keepers.append(keeper)

    def write(self) -> None:
        """Have all that is kept back written now; nothing more is kept back."""
        self.collects = False
        keepers, self._keepers = self._keepers, []
        for keeper in keepers:
            keeper.write_kept()


class Kept:
    """What is kept back for one client, in order."""

    __slots__ = ("_size", "frames")

    def __init__(self) -> None:
        self.frames: list[Pass] = []
        self._size = 0

    def __repr__(self) -> str:
        return f"<Kept {len(self.frames)} frames, {self._size} bytes>"

    def takes(self, frame: Pass) -> bool:
        """Keep ``frame`` back. False if that would be too much: then it is not kept, and the caller
        has to write what there is, and ``frame`` after it."""
        size = self._size + len(frame.data)
        if size > KEPT_BYTES:
            return False
        self.frames.append(frame)
        self._size = size
        return True

    def write(self, ws: web.WebSocketResponse[bool], transport: asyncio.Transport) -> bool:
        """All of it as one, to the transport of ``ws``. False, and nothing is written, if anything
        waits in the connection already, or if goodbye was said on it or it has ended."""
        if ws.closed or transport.is_closing() or transport.get_write_buffer_size():
            return False
        transport.write(b"".join([frame.wire() for frame in self.frames]))
        return True


class Received:
    """Await it for the next message of ``ws``. Frames that are put into outboxes afterwards are
    kept back until a message has to be waited for. Whoever awaits it no more has to call
    :meth:`Batch.write`."""

    __slots__ = ("_batch", "_ws")

    def __init__(self, ws: ClientWebSocketResponse[bool], batch: Batch) -> None:
        self._ws = ws
        self._batch = batch

    def __await__(self) -> Generator[Any, Any, Any]:
        receiving = self._ws.receive()
        try:
            waits_for = receiving.send(None)
        except StopIteration as done:
            message = done.value  # it was there already
        else:
            self._batch.write()
            message = yield from Begun(receiving, waits_for).__await__()
        self._batch.collects = True
        return message
