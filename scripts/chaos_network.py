"""The network of a chaos run: a TCP forwarder before each instance, which can be bad.

All run in one thread with an event loop of its own, so that what the run itself does delays no
byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

PIECE = 1 << 16


class Line:
    """One connection of the proxy to an instance, and ours behind it."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near = near
        self.far = far
        self.is_socket = False
        self.has_answered = False

    def reset(self, side: str) -> None:
        """Reset the side of the proxy, of the instance, or both; the other one is closed."""
        for writer, name in ((self.near, "proxy"), (self.far, "instance")):
            if side in (name, "both"):
                with contextlib.suppress(OSError):
                    writer.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                writer.transport.abort()
            else:
                writer.close()


class Forwarder:
    """Passes bytes on from ``port`` to ``target``.

    ``delay_s``: seconds by which each piece of an answer comes late, frames of WebSockets excepted.
    ``silence``: WebSockets bring no frames (``frames``), or not even the answer to a handshake
    (``all``); what is held back comes afterwards. ``breaks``: a connection is reset as soon as
    something is sent on it, which does not arrive (``requests``), or is answered, when what was
    asked is done (``answers``).
    """

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self._target = target
        self._server: asyncio.Server | None = None
        self._lines: set[Line] = set()
        self.delay_s = 0.0
        self.silence = ""
        self.breaks = ""

    async def listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def refuse(self) -> None:
        """New connections are refused; open ones go on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def reset(self, side: str, *, sockets_only: bool = False) -> None:
        """Reset all connections that are open now."""
        for line in tuple(self._lines):
            if line.is_socket or not sockets_only:
                line.reset(side)

    async def set(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, name, value)

    async def _serve(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        try:
            answers, far = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            near.transport.abort()
            return
        line = Line(near, far)
        self._lines.add(line)
        try:
            await asyncio.gather(self._up(reader, line), self._down(answers, line))
        finally:
            self._lines.discard(line)
            near.close()
            far.close()

    async def _up(self, reader: asyncio.StreamReader, line: Line) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE):
                if b"\r\nupgrade: websocket" in piece[:4096].lower():
                    line.is_socket = True
                if self.breaks == "requests":
                    line.reset("both")
                    return
                line.far.write(piece)
                await line.far.drain()
        with contextlib.suppress(OSError, RuntimeError):
            line.far.write_eof()

    async def _down(self, reader: asyncio.StreamReader, line: Line) -> None:
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        writing = asyncio.create_task(self._deliver(pieces, line))
        try:
            while piece := await reader.read(PIECE):
                pieces.put_nowait((time.monotonic(), piece))
            pieces.put_nowait((time.monotonic(), b""))
            await writing
        except OSError:
            line.reset("proxy")
        finally:
            writing.cancel()

    async def _deliver(self, pieces: asyncio.Queue[tuple[float, bytes]], line: Line) -> None:
        while True:
            came, piece = await pieces.get()
            while self._holds(line, came):  # noqa: ASYNC110 (by time or by another thread)
                await asyncio.sleep(0.01)
            if self.breaks == "answers" and piece:
                line.reset("both")
            if not piece:
                line.near.close()
                return
            line.has_answered = True
            line.near.write(piece)
            await line.near.drain()

    def _holds(self, line: Line, came: float) -> bool:
        if line.is_socket:
            return self.silence == "all" or (self.silence == "frames" and line.has_answered)
        return time.monotonic() < came + self.delay_s


class Network:
    """Forwarders before the instances, by the same index; called from another thread."""

    def __init__(self, pairs: list[tuple[int, int]]) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda loop, context: None)
        self._forwarders = [Forwarder(port, target) for port, target in pairs]
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        for index in range(len(pairs)):
            self.do(index, Forwarder.listen)

    def do(self, index: int, action: Callable[..., Any], *values: Any, **named: Any) -> None:
        """``action`` (a method of Forwarder) of the one before an instance; done on return."""
        doing = action(self._forwarders[index], *values, **named)
        asyncio.run_coroutine_threadsafe(doing, self._loop).result(10)

    def mend(self, index: int) -> None:
        self.do(index, Forwarder.set, delay_s=0.0, silence="", breaks="")

    def close(self) -> None:
        """End all connections and the thread."""
        for index in range(len(self._forwarders)):
            self.do(index, Forwarder.refuse)
            self.do(index, Forwarder.reset, "both")
        asyncio.run_coroutine_threadsafe(_end_tasks(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


async def _end_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)  # transports that were aborted are closed in the next turn
