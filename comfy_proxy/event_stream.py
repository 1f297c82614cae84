"""The one writer of Server-Sent Events (WHATWG HTML, 9.2): of jobs, of those of the Comfy API v2,
and of the dashboard."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from comfy_proxy.clock import Clock
from comfy_proxy.counted_response import CountedResponse
from comfy_proxy.lenient_json import dumps

HEARTBEAT_S = 15.0
"""Seconds without an event after which a comment line is to be sent, as WHATWG HTML 9.2.7 advises:
some servers in between drop a connection that is silent for longer, and Comfy's SDKs give it up."""
WRITE_TIMEOUT_S = 60.0
"""Seconds in which a client must take what is written; beyond, its connection is ended. Otherwise
what it does not read would be kept in memory for it."""

_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold events back until its buffer is full
}


def event(name: str, data: Any, event_id: int | None = None) -> bytes:
    """One event: its ``name``, its ``data`` as JSON in one line, and its id, with which a client
    that comes back says what it has seen (``Last-Event-ID``)."""
    number = b"" if event_id is None else b"id: %d\n" % event_id
    return b"event: %s\n%sdata: %s\n\n" % (name.encode(), number, dumps(data))


class EventStream:
    """The answer to one client, from :meth:`begin` to :meth:`end`; ``response`` is what aiohttp
    sends of it.

    Every method raises ConnectionResetError if the client has left, or has not taken what was
    written after WRITE_TIMEOUT_S.
    """

    def __init__(self, response: web.StreamResponse, clock: Clock) -> None:
        self.response = response
        self._clock = clock

    @classmethod
    async def begin(
        cls, request: web.Request, clock: Clock, *, retry_ms: int | None = None
    ) -> EventStream:
        """Send the headers. ``retry_ms``: how many milliseconds after the loss of its connection
        an ``EventSource`` comes back; by itself a browser takes a few seconds."""
        response = CountedResponse(headers=_HEADERS)
        await response.prepare(request)
        stream = cls(response, clock)
        if retry_ms is not None:
            await stream.send(b"retry: %d\n\n" % retry_ms)
        return stream

    async def send(self, events: bytes) -> None:
        """Write ``events``, as :func:`event` made them, one or more."""
        try:
            async with self._clock.timeout(WRITE_TIMEOUT_S):
                await self.response.write(events)
        except TimeoutError:
            raise ConnectionResetError("the client does not read its events") from None

    async def heartbeat(self) -> None:
        """Write a comment, which a client passes over."""
        await self.send(b": heartbeat\n\n")

    async def end(self) -> web.StreamResponse:
        """Nothing more comes; returns the answer for aiohttp."""
        await self.response.write_eof()
        return self.response
