"""How many clients may be connected, and how long one may take for the head of its first request.

Between the event loop and aiohttp's server, which bounds neither. For ``comfy-proxy serve``; a host
application that carries the proxy has a server of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

from aiohttp import web
from loguru import logger

HEAD_TIMEOUT_S: Final = 30.0
"""Seconds that a new connection has for the head of its first request. Beyond it it is closed, with
408 if anything of a head has come. Browsers open connections before they need them, and open them
again."""
_END: Final = b"\r\n\r\n"
_TOO_MANY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b"
)
_TOO_MANY_BODY: Final = b'{"error":"Too many clients are connected.","code":"too_many_connections"}'
_LATE: Final = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Connections:
    """Those that are open, at most ``limit`` (MAX_CLIENT_CONNECTIONS). One more is told 503.

    After :meth:`end` none is taken any more. ``silent`` are those of which no head has come yet,
    with their guards.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.open = 0
        self.refused = 0
        self.ended = False
        self.silent: dict[_Guard, asyncio.Transport] = {}

    async def end(self, app: web.Application) -> None:
        """The server has stopped to listen: close what has asked for nothing yet. The first of the
        application's ``on_shutdown``, so that it comes right after aiohttp has closed what is idle.

        aiohttp overlooks a connection that is made in the turn of the loop in which it does so, or
        that was accepted before and is made later: it ignores what comes on it, and waits for it
        until SHUTDOWN_TIMEOUT is over.
        """
        self.ended = True
        for transport in self.silent.values():
            transport.close()

    def guarded(self, make: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
        """As ``make``, with a guard before each protocol."""
        return lambda: _Guard(make(), self)

    def refuse(self, transport: asyncio.Transport) -> None:
        """Tell the client, and close."""
        if self.refused % 1000 == 0:
            logger.warning("{} clients are connected: one more is refused", self.open)
        self.refused += 1
        transport.write(_TOO_MANY % (len(_TOO_MANY_BODY), _TOO_MANY_BODY))
        transport.close()


class _Guard(asyncio.Protocol):
    """Passes everything on to ``inner``, which it stands before until the connection ends."""

    def __init__(self, inner: asyncio.Protocol, connections: Connections) -> None:
        self._inner: asyncio.Protocol | None = inner
        self._connections = connections
        self._counted = False
        self._tail = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is not of that class
        if self._connections.ended:
            self._inner = None
            transport.close()
            return
        if self._connections.open >= self._connections.limit or self._inner is None:
            self._inner = None
            self._connections.refuse(transport)
            return
        self._connections.open += 1
        self._counted = True
        self._connections.silent[self] = transport
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(HEAD_TIMEOUT_S, self._late, transport)
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._inner is None:
            return
        if self._timer is not None:
            tail = self._tail + data[:3]
            self._tail = (self._tail + data[-3:])[-3:]
            if _END in data or _END in tail:
                self._no_longer_silent()
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return None if self._inner is None else self._inner.eof_received()

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._no_longer_silent()
        if self._counted:
            self._connections.open -= 1
        if self._inner is not None and self._counted:
            self._inner.connection_lost(error)

    def _no_longer_silent(self) -> None:
        self._connections.silent.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self, transport: asyncio.Transport) -> None:
        self._no_longer_silent()
        if self._tail:
            transport.write(_LATE)
        transport.close()


def guarded_loop(
    loop: asyncio.AbstractEventLoop, connections: Connections
) -> asyncio.AbstractEventLoop:
    """A loop of the same kind, whose servers take as many as ``connections``; ``loop`` is closed.

    ``web.run_app`` makes its server itself, and has the loop to listen.
    """
    kind: Any = type(loop)
    loop.close()

    class GuardedLoop(kind):  # type: ignore[misc]
        async def create_server(self, protocol_factory: Any, *of: Any, **more: Any) -> Any:
            return await super().create_server(connections.guarded(protocol_factory), *of, **more)

    made: asyncio.AbstractEventLoop = GuardedLoop()
    return made
