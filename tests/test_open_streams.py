"""Who was let in once, and may not come in any more, loses its open sockets and event streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientResponse, ClientWebSocketResponse, WSMsgType, web
from aiohttp.test_utils import TestClient, TestServer
from job_client import form, until, write_templates

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import SETTINGS
from comfy_proxy.open_streams import EVENT_STREAMS, REASON
from comfy_proxy.reload import reload

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Any]
OLD, NEW = "an old key of sixteen", "a new key of sixteen"
PATIENCE_S = 20.0


def by(key: str) -> dict[str, str]:
    return {"X-API-Key": key}


@pytest.fixture
async def keyed(start_proxy: Start, workers: Pair, tmp_path: Any) -> TestClient:
    """Both keys are good still."""
    (tmp_path / "templates").mkdir()
    templates = write_templates(tmp_path / "templates")
    client: TestClient = await start_proxy(
        *workers, api_keys=(OLD, NEW), workflow_directory=templates
    )
    return client


def take_over(http: TestClient, **settings: Any) -> None:
    """As SIGHUP does."""
    assert reload(http.app, lambda: replace(http.app[SETTINGS], **settings))


async def rest(socket: ClientWebSocketResponse) -> aiohttp.WSMessage:
    """The message after all events."""
    async with asyncio.timeout(PATIENCE_S):
        while (message := await socket.receive()).type in (WSMsgType.TEXT, WSMsgType.BINARY):
            pass
    return message


async def assert_told(socket: ClientWebSocketResponse) -> None:
    message = await rest(socket)
    assert (message.type, message.data) == (WSMsgType.CLOSE, 1008)
    assert message.extra == REASON.decode()


async def cut_off(stream: ClientResponse) -> None:
    """Return when it is cut off."""
    with pytest.raises(aiohttp.ClientPayloadError):
        async with asyncio.timeout(PATIENCE_S):
            await stream.read()


async def test_sockets_of_a_key_that_is_none_any_more_are_closed(
    keyed: TestClient, workers: Pair
) -> None:
    """1008 with a reason, however the key came; sockets of other keys live on, and a
    good key may open one with the same clientId."""
    async with (
        keyed.ws_connect("/ws?clientId=a", headers=by(OLD)) as first,
        keyed.ws_connect(f"/ws?clientId=b&token={OLD.replace(' ', '%20')}") as second,
        keyed.ws_connect("/ws?clientId=c", headers=by(NEW)) as third,
    ):
        take_over(keyed, api_keys=(NEW,))
        await assert_told(first)
        await assert_told(second)
        with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
            await keyed.ws_connect("/ws?clientId=a", headers=by(OLD))
        async with keyed.ws_connect("/ws?clientId=a", headers=by(NEW)) as again:
            assert (await again.receive_json())["type"] == "status"
        await until(lambda: [worker.open_sockets for worker in workers] == [1, 1])
        await third.close()
        assert third.close_code == 1000


async def test_event_streams_end_too(keyed: TestClient) -> None:
    """The dashboard's and a job's; those of other keys live on to their ends."""
    job = await long_job(keyed)
    paths = ("/dashboard/events", f"/api/jobs/{job}/events")
    async with AsyncExitStack() as stack:
        streams = {
            (path, key): await stack.enter_async_context(keyed.get(path, headers=by(key)))
            for path in paths
            for key in (OLD, NEW)
        }
        assert {one.status for one in streams.values()} == {200}
        take_over(keyed, api_keys=(NEW,))
        for path in paths:
            await cut_off(streams[path, OLD])
        await until(lambda: len(keyed.app[EVENT_STREAMS]) == 2)
        async with keyed.delete(f"/api/jobs/{job}", headers=by(NEW)) as answer:
            assert answer.status == 200
        assert b"event: failed" in await streams[paths[1], NEW].read()
    await until(lambda: not keyed.app[EVENT_STREAMS])


async def long_job(http: TestClient) -> str:
    """The id of a job that takes a minute."""
    data = form(seconds=60)
    async with http.post("/api/workflows/timed", data=data, headers=by(NEW)) as answer:
        assert answer.status == 202, await answer.text()
        return str((await answer.json())["job_id"])


async def test_whoever_is_still_allowed_keeps_what_is_open(keyed: TestClient) -> None:
    """A change of other settings, and one more key, end nothing."""
    async with keyed.ws_connect("/ws?clientId=a", headers=by(OLD)) as socket:
        take_over(keyed, log_level="debug", api_keys=(OLD, NEW, "a third key of sixteen"))
        take_over(keyed, log_level="info")
        await socket.close()
        assert socket.close_code == 1000


async def test_the_first_key_ends_what_came_without_one(start_proxy: Start, workers: Pair) -> None:
    """Until then anybody could come in."""
    http = await start_proxy(*workers)
    async with http.ws_connect("/ws?clientId=a") as socket:
        take_over(http, api_keys=(NEW,))
        await assert_told(socket)


async def test_pages_of_an_origin_that_is_none_any_more(start_proxy: Start, workers: Pair) -> None:
    """Their sockets are closed as well: they would be refused now."""
    page = {"Origin": "https://app.example"}
    http = await start_proxy(*workers, cors_origins=("https://app.example",))
    async with http.ws_connect("/ws?clientId=a", headers=page) as socket:
        take_over(http, cors_origins=())
        await assert_told(socket)


# --- what an instance of any kind sends -------------------------------------------------


class Pack:
    """An instance with a pack that has a WebSocket and an event stream; ``let_go`` holds both up
    before they begin."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.let_go.set()
        self.asked = asyncio.Event()
        self.codes: asyncio.Queue[int | None] = asyncio.Queue()
        app = web.Application()
        app.add_routes([web.get("/pack/socket", self._socket), web.get("/pack/events", self._send)])
        self.server = TestServer(app)

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        await self._held_up()
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        self.codes.put_nowait(socket.close_code)
        return socket

    async def _send(self, request: web.Request) -> web.StreamResponse:
        await self._held_up()
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await stream.prepare(request)
        await stream.write(b"data: 1\n\n")
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return stream

    async def _held_up(self) -> None:
        self.asked.set()
        await self.let_go.wait()


@pytest.fixture
async def pack() -> AsyncIterator[Pack]:
    made = Pack()
    async with AsyncExitStack() as stack:
        await made.server.start_server()
        stack.push_async_callback(made.server.close)
        yield made


@pytest.fixture
async def packed(start_proxy: Start, pack: Pack) -> TestClient:
    client: TestClient = await start_proxy(str(pack.server.make_url("")), api_keys=(OLD, NEW))
    return client


async def test_a_packs_own_sockets_and_streams_end(packed: TestClient, pack: Pack) -> None:
    """The client's end is told why, the instance that it goes away."""
    async with (
        packed.ws_connect("/pack/socket", headers=by(OLD)) as socket,
        packed.get("/pack/events", headers=by(OLD)) as stream,
    ):
        assert await stream.content.readline() == b"data: 1\n"
        take_over(packed, api_keys=(NEW,))
        await assert_told(socket)
        await cut_off(stream)
        assert await pack.codes.get() == 1001


async def test_what_was_about_to_begin_does_not(packed: TestClient, pack: Pack) -> None:
    """An instance had been asked with a good key, and answers when it is none any more: the
    client's connection is cut."""
    pack.let_go.clear()
    shaking = asyncio.create_task(packed.ws_connect("/pack/socket", headers=by(OLD)))
    await pack.asked.wait()
    pack.asked.clear()
    getting = asyncio.create_task(packed.get("/pack/events", headers=by(OLD)))
    await pack.asked.wait()
    take_over(packed, api_keys=(NEW,))
    pack.let_go.set()
    for asking in (shaking, getting):
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await asking
    assert not packed.app[EVENT_STREAMS]
