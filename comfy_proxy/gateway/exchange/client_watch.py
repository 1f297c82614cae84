"""Noticing that the client has gone while we wait for somebody else.

aiohttp cancels a handler whose client left only if the HOST application asked for it
(``handler_cancellation``), and a request without a body has nothing that would break. A proxy has
to close the upstream request then, so it listens to the connection itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from aiohttp import web

from comfy_proxy.bodies import ClientGoneError
from comfy_proxy.cancel_scope import CancelScope


class while_connected(CancelScope):  # noqa: N801 - reads as what it does: ``with while_connected(request)``
    """Run the body as long as the client's connection lasts.

    When it is lost the body is cancelled as by :func:`asyncio.timeout` (whose rules about other
    cancellations hold) and ClientGoneError raised instead. If it was lost before, ClientGoneError
    is raised at once.
    """

    __slots__ = ("_listener", "_request")

    def __init__(self, request: web.Request) -> None:
        super().__init__()
        self._request = request

    def __enter__(self) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ClientGoneError
        self._listener = _listener(transport)
        self.enter()
        self._listener.on_lost.append(self.cancel)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.on_lost.remove(self.cancel)
        if self.left(kind):
            raise ClientGoneError from None


def _listener(transport: asyncio.Transport) -> _Listener:
    """The one of this connection. It stays for all its requests: uvloop stops and starts reading
    at each ``set_protocol``, four system calls for a request that comes and goes."""
    protocol = transport.get_protocol()
    if not isinstance(protocol, _Listener):
        protocol = _Listener(protocol)
        transport.set_protocol(protocol)
    return protocol


class _Listener(asyncio.Protocol):
    """Stands between the transport and aiohttp's protocol, passes everything on, hears the end."""

    def __init__(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.data_received = protocol.data_received  # type: ignore[method-assign]
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]
        self.on_lost: list[Callable[[], None]] = []
        self._protocol = protocol

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)
        for callback in self.on_lost:
            callback()
