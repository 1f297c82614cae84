"""What goes through clients' WebSockets: each counts its own, the application knows the sum."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from aiohttp import web

from comfy_proxy.gateway.exchange.context import CONTEXT
from comfy_proxy.metrics.live import SocketTotals


@dataclass(slots=True, eq=False)
class SocketTraffic:
    """One client's WebSocket: frames of text and binary data, and the bytes in them."""

    frames_to_client: int = 0
    frames_to_instance: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    previews_dropped: int = 0
    too_slow: bool = False

    def to_client(self, data: str | bytes) -> None:
        self.frames_to_client += 1
        self.sent_bytes += _size(data)

    def to_instance(self, data: str | bytes) -> None:
        self.frames_to_instance += 1
        self.received_bytes += _size(data)


class AllTraffic:
    """The WebSockets of an application: those that are open, and the sum of those that were."""

    def __init__(self) -> None:
        self._open: set[SocketTraffic] = set()
        self._past = SocketTotals()

    def __repr__(self) -> str:
        return f"<AllTraffic {self.totals}>"

    @property
    def totals(self) -> SocketTotals:
        return _sum(self._past, self._open, clients=len(self._open))

    def begin(self, traffic: SocketTraffic) -> None:
        self._open.add(traffic)

    def end(self, traffic: SocketTraffic) -> None:
        self._open.discard(traffic)
        self._past = _sum(self._past, {traffic}, clients=0)


ALL_TRAFFIC: web.AppKey[AllTraffic] = web.AppKey("comfy_proxy.all_traffic")


@contextmanager
def counted(request: web.Request, traffic: SocketTraffic) -> Iterator[None]:
    """While entered, ``traffic`` is an open WebSocket of the application; ``request`` keeps it."""
    begin_counting(request, traffic)
    try:
        yield
    finally:
        end_counting(request, traffic)


def begin_counting(request: web.Request, traffic: SocketTraffic) -> None:
    """``traffic`` is an open WebSocket of the application now; ``request`` keeps it."""
    request[CONTEXT].traffic = traffic
    if (everything := request.config_dict.get(ALL_TRAFFIC)) is not None:
        everything.begin(traffic)


def end_counting(request: web.Request, traffic: SocketTraffic) -> None:
    """It is open no longer."""
    if (everything := request.config_dict.get(ALL_TRAFFIC)) is not None:
        everything.end(traffic)


def _sum(past: SocketTotals, sockets: set[SocketTraffic], *, clients: int) -> SocketTotals:
    return SocketTotals(
        clients=clients,
        frames_to_client=past.frames_to_client + sum(s.frames_to_client for s in sockets),
        frames_to_instance=past.frames_to_instance + sum(s.frames_to_instance for s in sockets),
        previews_dropped=past.previews_dropped + sum(s.previews_dropped for s in sockets),
        slow_clients=past.slow_clients + sum(s.too_slow for s in sockets),
    )


def _size(data: str | bytes) -> int:
    if isinstance(data, str) and not data.isascii():
        return len(data.encode(errors="surrogatepass"))
    return len(data)
