"""The instances and the clients of bench-sockets, in one process: one clock for both ends of a way.

The instances are those of bench-scale for HTTP. Their sockets, and the clients', do next to nothing
in Python: frames are made once, written to the transport as they are, and only their ends are
looked for on the way in. Frames of a client come in the order in which they were sent, so when each
was sent is kept in a queue a client, and not in the frame.
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import cast

from aiohttp import web
from bench_scale_instances import INSTANCES, Instance, answer, asked
from bench_upstream import frame, measures

TEXT, BINARY = 1, 2
START_TIMEOUT_S = 20.0


class World:
    """Two instances, and the sockets that are ``open`` at them, by clientId."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.ports = tuple(ports)
        self.open: dict[str, asyncio.Transport] = {}

    @asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        app = web.Application(client_max_size=2**30)
        app[INSTANCES] = {port: Instance() for port in self.ports}
        app.router.add_get("/ws", self._listen)
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        for port in self.ports:
            await web.TCPSite(runner, "127.0.0.1", port, backlog=2048).start()
        yield
        await runner.cleanup()

    async def _listen(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        client_id = request.query.get("clientId") or uuid.uuid4().hex
        assert request.transport is not None
        instance = asked(request)
        status = {**instance.status(), "sid": client_id}
        await socket.send_json({"type": "status", "data": status})
        instance.sockets[client_id] = socket
        self.open[client_id] = request.transport
        try:
            async for _ in socket:
                pass
        finally:
            instance.sockets.pop(client_id, None)
            self.open.pop(client_id, None)
        return socket


class Client(asyncio.Protocol):
    """A WebSocket that counts what comes. ``on_frame`` is called with each frame's size once that
    is there; until it is set frames are ignored."""

    def __init__(self) -> None:
        self.sent_at: deque[float] = deque()
        self.on_frame: Callable[[Client, int], None] | None = None
        self.frames = 0
        self.greeted = asyncio.get_running_loop().create_future()
        self._head: bytes | None = b""  # of the handshake's answer
        self._start = b""  # of a frame whose size is not known yet
        self._left = self._size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += data
            end = self._head.find(b"\r\n\r\n") + 4
            if end < 4:
                return
            if not self._head.startswith(b"HTTP/1.1 101 "):
                raise SystemExit(f"no WebSocket: {self._head!r}")
            data, self._head = self._head[end:], None
        while data:
            if not self._left:
                data, self._start = self._start + data, b""
                found = measures(data)
                if found is None:
                    self._start = data
                    return
                _, head, self._size = found
                self._left = head + self._size
            if len(data) < self._left:
                self._left -= len(data)
                return
            data, self._left = data[self._left :], 0
            self._arrived()

    def _arrived(self) -> None:
        self.frames += 1
        if not self.greeted.done():
            self.greeted.set_result(None)
        elif self.on_frame is not None:
            self.on_frame(self, self._size)


async def connected(port: int, client_id: str, path: str = "/ws") -> Client:
    """With its greeting read."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(Client, "127.0.0.1", port)
    key = base64.b64encode(os.urandom(16)).decode()
    client.transport.write(
        f"GET {path}?clientId={client_id} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket"
        f"\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}"
        "\r\n\r\n".encode()
    )
    async with asyncio.timeout(START_TIMEOUT_S):
        await client.greeted
    return client


def left(client: Client) -> None:
    client.transport.write(frame(8, b"\x03\xe8", bytes(4)))
    client.transport.close()


async def until(condition: Callable[[], bool], what: str) -> None:
    """Exits with a message if it never holds."""
    last = time.monotonic() + START_TIMEOUT_S
    while not condition():
        if time.monotonic() > last:
            raise SystemExit(f"never: {what}")
        await asyncio.sleep(0.02)
