"""How many clients may be connected, and for how long one may keep the head of its request back."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from manual_clock import settle

from comfy_proxy import connection_guard
from comfy_proxy.connection_guard import Connections, guarded_loop

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def _hello(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text="hello")


class Guarded:
    """aiohttp's server behind a guard for two connections."""

    def __init__(self) -> None:
        self.connections = Connections(2)
        self.port = 0
        self._opened: list[Streams] = []

    async def connect(self, sent: bytes = b"") -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._opened.append((reader, writer))
        writer.write(sent)
        return reader, writer

    async def close(self) -> None:
        for _, writer in self._opened:
            writer.close()
            await asyncio.wait([asyncio.ensure_future(writer.wait_closed())])


@pytest.fixture
async def guarded() -> AsyncIterator[Guarded]:
    made, inner = Guarded(), web.Server(_hello)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(made.connections.guarded(inner), "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    await made.close()
    server.close()
    await inner.shutdown()
    await server.wait_closed()


async def answer(streams: Streams) -> bytes:
    async with asyncio.timeout(10):
        return await streams[0].readuntil(b"\r\n\r\n")


async def test_one_connection_too_many_is_503(guarded: Guarded) -> None:
    """In JSON, with Retry-After; the others go on, and who leaves makes room."""
    one, two = await guarded.connect(HEAD), await guarded.connect(HEAD)
    for streams in (one, two):
        assert (await answer(streams)).startswith(b"HTTP/1.1 200")
    refused = await guarded.connect()
    told = await answer(refused)
    assert told.startswith(b"HTTP/1.1 503")
    assert b"Retry-After: " in told
    assert b'"too_many_connections"' in await refused[0].read()
    one[1].close()
    await one[1].wait_closed()
    await settle()
    again = await guarded.connect(HEAD)
    assert (await answer(again)).startswith(b"HTTP/1.1 200")


async def test_a_head_that_does_not_come_is_408(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that sends nothing at all is closed without a word."""
    monkeypatch.setattr(connection_guard, "HEAD_TIMEOUT_S", 0.02)
    slow, silent = await guarded.connect(HEAD[:-3]), await guarded.connect()
    assert (await answer(slow)).startswith(b"HTTP/1.1 408")
    async with asyncio.timeout(10):
        assert await silent[0].read() == b""


async def test_a_head_may_come_in_pieces(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end is seen wherever it is cut; from then on the time is that of the request."""
    timers: list[asyncio.TimerHandle] = []
    loop = asyncio.get_running_loop()
    later = loop.call_later

    def watched(delay: float, *of: object) -> asyncio.TimerHandle:
        timer = later(delay, *of)  # type: ignore[arg-type]
        if delay == 12.25:
            timers.append(timer)
        return timer

    monkeypatch.setattr(connection_guard, "HEAD_TIMEOUT_S", 12.25)
    monkeypatch.setattr(loop, "call_later", watched)
    made = connection_guard._Guard(asyncio.Protocol(), guarded.connections)
    made.connection_made(asyncio.Transport())
    for at in range(len(HEAD)):
        assert not timers[0].cancelled()
        made.data_received(HEAD[at : at + 1])
    assert timers[0].cancelled()
    made.connection_lost(None)
    assert guarded.connections.open == 0


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("sent", [b"", HEAD[:-3], HEAD])
async def test_who_connects_while_it_closes_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch, after: int, sent: bytes
) -> None:
    """In the turn of the loop in which aiohttp closes what is idle, or right after it: aiohttp
    ignores what is asked there, and would wait its whole shutdown timeout."""
    connections, app = Connections(2), web.Application()
    app.on_shutdown.append(connections.end)
    runner = web.AppRunner(app, shutdown_timeout=3600)
    await runner.setup()
    assert runner.server is not None
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
    guard = connections.guarded(runner.server)()

    def connected() -> None:
        transport.set_protocol(guard)
        guard.connection_made(transport)
        theirs.send(sent)

    close_idle = runner.server.pre_shutdown

    def closing() -> None:
        steps = [connected, close_idle]
        for step in reversed(steps) if after else steps:
            step()

    monkeypatch.setattr(runner.server, "pre_shutdown", closing)
    async with asyncio.timeout(10):
        await runner.cleanup()
    await settle()
    assert connections.open == 0
    theirs.close()


async def test_who_comes_after_the_end_is_not_taken(guarded: Guarded) -> None:
    """Its connection was accepted before, and is made now."""
    served = await guarded.connect(HEAD)
    assert (await answer(served)).startswith(b"HTTP/1.1 200")
    await guarded.connections.end(web.Application())
    late = await guarded.connect(HEAD)
    async with asyncio.timeout(10):
        await asyncio.wait([asyncio.ensure_future(late[0].read())])
    assert guarded.connections.open == 1, "who has asked is aiohttp's own matter"


def test_a_loop_of_the_same_kind_guards_its_servers() -> None:
    """What ``web.run_app`` listens with."""
    plain = asyncio.new_event_loop()
    loop = guarded_loop(plain, Connections(1))
    assert isinstance(loop, type(plain))
    assert plain.is_closed()

    ended = asyncio.Event()

    class Heard(asyncio.Protocol):
        def connection_lost(self, error: Exception | None) -> None:
            ended.set()

    async def listen() -> bytes:
        server = await loop.create_server(Heard, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        _, first = await asyncio.open_connection("127.0.0.1", port)
        reader, second = await asyncio.open_connection("127.0.0.1", port)
        told = await reader.read()
        for writer in (first, second):
            writer.close()
            await asyncio.wait([asyncio.ensure_future(writer.wait_closed())])
        await ended.wait()
        server.close()
        return told

    assert loop.run_until_complete(listen()).startswith(b"HTTP/1.1 503")
    loop.close()
