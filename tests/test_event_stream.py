"""Server-Sent Events on the wire, and clients that do not read them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from manual_clock import ManualClock, settle

import comfy_proxy
from comfy_proxy.event_stream import WRITE_TIMEOUT_S, EventStream, event

Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
async def ask() -> AsyncIterator[Callable[[Serve], Awaitable[Any]]]:
    """``await ask(serve)``: the answer of a server that does nothing but ``serve``."""
    clients = []

    async def answer_of(serve: Serve) -> Any:
        app = web.Application()
        app.router.add_get("/", serve)
        client: TestClient[Any, Any] = TestClient(TestServer(app))
        await client.start_server()
        clients.append(client)
        return await client.get("/")

    yield answer_of
    for client in clients:
        await client.close()


async def test_a_stream_on_the_wire(ask: Any, clock: ManualClock) -> None:
    """No cache and no buffer of a server in between; events in the order sent, then the end."""

    async def serve(request: web.Request) -> web.StreamResponse:
        stream = await EventStream.begin(request, clock, retry_ms=250)
        await stream.send(event("status", {"text": "a\nb"}, 7) + event("preview", None))
        await stream.heartbeat()
        return await stream.end()

    answer = await ask(serve)
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert await answer.read() == (
        b"retry: 250\n\n"
        b'event: status\nid: 7\ndata: {"text":"a\\nb"}\n\n'
        b"event: preview\ndata: null\n\n"
        b": heartbeat\n\n"
    )


async def test_when_to_come_back_is_the_browsers_choice(ask: Any, clock: ManualClock) -> None:
    """Without ``retry_ms`` nothing is said of it."""

    async def serve(request: web.Request) -> web.StreamResponse:
        return await (await EventStream.begin(request, clock)).end()

    assert await (await ask(serve)).read() == b""


class _NeverRead:
    """A response whose client takes nothing."""

    async def write(self, data: bytes) -> None:
        await asyncio.Event().wait()


async def test_a_client_that_takes_nothing_is_let_go(clock: ManualClock) -> None:
    """A write that hangs for a minute ends the stream as a lost connection."""
    stream = EventStream(_NeverRead(), clock)
    writing = asyncio.create_task(stream.heartbeat())
    await clock.advance(WRITE_TIMEOUT_S - 1)
    assert not writing.done()
    await clock.advance(1)
    with pytest.raises(ConnectionResetError):
        await writing
    await settle()
    assert clock.waiting == 0


def test_there_is_one_writer_of_events() -> None:
    """A second one would have a heartbeat, a time limit and headers of its own."""
    package = Path(comfy_proxy.__file__).parent
    writers = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if '"Content-Type": "text/event-stream"' in path.read_text()
    ]
    assert writers == ["event_stream.py"]
