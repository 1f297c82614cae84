"""Noticing that the client has gone while we wait for somebody else.

aiohttp cancels a handler whose client left only if the HOST application asked for it
(``handler_cancellation``), and a request without a body has nothing that would break. A proxy has
to close the upstream request then, so it listens to the connection itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from comfy_proxy.gateway.context import ClientGoneError


@asynccontextmanager
async def while_connected(request: web.Request) -> AsyncIterator[None]:
    """Run the body as long as the client's connection lasts.

    When it is lost the body is cancelled as by :func:`asyncio.timeout` (whose rules about other
    cancellations hold) and ClientGoneError raised instead.
    """
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ClientGoneError
    protocol = transport.get_protocol()
    scope = asyncio.timeout(None)
    try:
        async with scope:
            now = asyncio.get_running_loop().time()
            listener = _Listener(protocol, on_lost=lambda: scope.reschedule(now))
            transport.set_protocol(listener)
            try:
                yield
            finally:
                if not listener.lost:
                    transport.set_protocol(protocol)
    except TimeoutError:
        if scope.expired():
            raise ClientGoneError from None
        raise


class _Listener(asyncio.Protocol):
    """Stands between the transport and aiohttp's protocol, passes everything on, hears the end."""

    def __init__(self, protocol: asyncio.BaseProtocol, *, on_lost: Callable[[], None]) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.data_received = protocol.data_received  # type: ignore[method-assign]
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]
        self.lost = False
        self._protocol = protocol
        self._on_lost = on_lost

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._protocol.connection_lost(exc)
        self._on_lost()
