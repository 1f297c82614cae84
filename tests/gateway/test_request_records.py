"""One record of each request: what the metrics count and the access log prints."""

from __future__ import annotations

import asyncio
import gzip
import io
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from gateway_harness import Harness, Proxy, RawServer, unused_url
from prompts_front import until

from comfy_proxy.bodies import read_client_body
from comfy_proxy.counted_response import CountedResponse
from comfy_proxy.gateway.exchange.answers import WholeAnswer
from comfy_proxy.gateway.exchange.socket_traffic import ALL_TRAFFIC
from comfy_proxy.gateway.routes import Policy
from comfy_proxy.keys import REQUEST_OBSERVERS
from comfy_proxy.metrics.live import SocketTotals
from comfy_proxy.metrics.records import RequestRecord

SIZE = 3_000_000


class Records:
    """The proxy's records, in the order in which they were told."""

    def __init__(self, proxy: Proxy) -> None:
        self._queue: asyncio.Queue[RequestRecord] = asyncio.Queue()
        proxy.runner.app[REQUEST_OBSERVERS].append(self._queue.put_nowait)

    async def next(self) -> RequestRecord:
        async with asyncio.timeout(5):
            return await self._queue.get()

    @property
    def none_left(self) -> bool:
        return self._queue.empty()


async def _answer(request: web.Request) -> web.StreamResponse:
    """``/length`` and ``/chunks`` send SIZE bytes, anything else says what it has got."""
    if "chunks" in request.path:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for _ in range(3):
            await answer.write(bytes(SIZE // 3))
        return answer
    if "length" in request.path:
        return web.Response(body=bytes(SIZE))
    if "empty" in request.path:
        return web.Response(status=304)
    return web.Response(text=str(len(await request.read())))


@pytest.mark.parametrize("path", ["/length", "/chunks"])
async def test_a_streamed_answer_is_counted_to_the_byte(harness: Harness, path: str) -> None:
    """Its body, without headers and the framing of chunks; and who asked for what, of whom."""
    proxy = await harness.proxy(upstream := await harness.upstream(_answer))
    records = Records(proxy)
    headers = {"User-Agent": "curl/8", "X-Request-ID": "mine-1"}
    async with proxy.client.get(f"{path}?token=secret", headers=headers) as answer:
        assert len(await answer.read()) == SIZE
    record = await records.next()
    assert (record.method, record.path, record.status) == ("GET", path, 200)
    assert (record.sent_bytes, record.received_bytes) == (SIZE, 0)
    assert (record.user_agent, record.client, record.request_id) == (
        "curl/8",
        "127.0.0.1",
        "mine-1",
    )
    assert record.instance == f"127.0.0.1:{upstream.port}"
    assert record.policy == Policy.CUSTOM
    assert record.duration_s > 0
    assert records.none_left


@pytest.mark.parametrize("path", ["/length", "/empty"])
async def test_an_answer_without_a_body_sent_none(harness: Harness, path: str) -> None:
    """HEAD tells the length of what it does not send, 304 has nothing to send."""
    proxy = await harness.proxy(await harness.upstream(_answer))
    records = Records(proxy)
    async with proxy.client.head(path):
        pass
    assert (await records.next()).sent_bytes == 0


async def test_a_body_is_counted_as_it_came(harness: Harness) -> None:
    """Streamed up, in chunks or not, compressed or not: the bytes on the wire."""
    proxy = await harness.proxy(await harness.upstream(_answer))
    records = Records(proxy)

    async def chunks() -> Any:
        for _ in range(3):
            yield bytes(SIZE // 3)

    small = gzip.compress(bytes(SIZE))
    for body, headers, size in (
        (io.BytesIO(bytes(SIZE)), {}, SIZE),
        (chunks(), {}, SIZE),
        (small, {"Content-Encoding": "gzip"}, len(small)),
    ):
        async with proxy.client.post("/up", data=body, headers=headers) as answer:
            text = await answer.text()
        record = await records.next()
        assert (record.received_bytes, record.sent_bytes) == (size, len(text))


async def test_ours_refused_and_the_hosts_own(harness: Harness) -> None:
    """Each tells who answered; the host's routes are none of our business."""

    async def ours(request: web.Request) -> web.Response:
        return web.Response(text="grüße")

    async def events(request: web.Request) -> web.StreamResponse:
        answer = CountedResponse()
        await answer.prepare(request)
        await answer.write(b"data: 1\n\n")
        await answer.write_eof(b"!")
        return answer

    app = web.Application()
    app.router.add_get("/host", ours)
    routes = [web.get("/ours", ours), web.get("/events", events)]
    proxy = await harness.proxy(await unused_url(), app=app, routes=routes, api_keys=("key",))
    records = Records(proxy)
    key = {"X-API-Key": "key"}
    for method, path, headers in (
        ("GET", "/host", {}),
        ("GET", "/ours", key),
        ("HEAD", "/ours", key),
        ("GET", "/events", key),
        ("DELETE", "/ours", key),
        ("GET", "/ours", {}),
        ("GET", "/queue", key),
    ):
        async with proxy.client.request(method, path, headers=headers) as answer:
            await answer.read()
    told = [await records.next() for _ in range(6)]
    assert [(one.policy, one.status) for one in told] == [
        ("ours", 200), ("ours", 200), ("ours", 200), ("ours", 405), ("other", 401), ("merged", 503),
    ]  # fmt: skip
    assert [one.sent_bytes for one in told[:3]] == [7, 0, 10]
    assert all(one.sent_bytes > 50 for one in told[3:])  # the errors' JSON
    assert records.none_left


async def _endless(server: RawServer, reader: asyncio.StreamReader, writer: Any) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(1000))
    await writer.drain()
    await reader.read()


async def _silent(server: RawServer, reader: asyncio.StreamReader, writer: Any) -> None:
    await reader.read()


@pytest.mark.parametrize(("script", "sent"), [(_endless, 1000), (_silent, 0)])
@pytest.mark.parametrize("cancels", [True, False])
async def test_a_client_that_left_is_499(
    harness: Harness, script: Any, sent: int, cancels: bool
) -> None:
    """Before its answer began or in the middle of it, whatever the host does about handlers."""
    server = await harness.raw(script)
    proxy = await harness.proxy(server.url, runner_options={"handler_cancellation": cancels})
    records = Records(proxy)
    reader, writer = await proxy.open()
    writer.write(b"GET /view HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await server.asked.wait()
    if sent:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(sent)
    writer.transport.abort()
    record = await records.next()
    assert (record.status, record.sent_bytes) == (499, sent)
    assert record.policy == Policy.OWNER_BY_FILE


@pytest.mark.parametrize("cancels", [True, False])
async def test_a_client_that_left_our_handler_is_499(harness: Harness, cancels: bool) -> None:
    """Also if the host lets the handler go on to its end, which nobody reads."""
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        began.set()
        await go_on.wait()
        return web.Response(body=bytes(SIZE))

    proxy = await harness.proxy(
        await unused_url(),
        routes=[web.get("/slow", slow)],
        runner_options={"handler_cancellation": cancels},
    )
    records = Records(proxy)
    _, writer = await proxy.open()
    writer.write(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await began.wait()
    (connection,) = proxy.runner.server.connections
    writer.transport.abort()
    await until(lambda: connection.transport is None)
    go_on.set()
    record = await records.next()
    assert (record.status, record.sent_bytes, record.policy) == (499, 0, "ours")


@pytest.mark.parametrize("cancels", [True, False])
async def test_a_client_that_left_with_its_body_half_sent_is_499(
    harness: Harness, cancels: bool
) -> None:
    """Whoever read the body, and nothing is logged as a fault of ours."""
    began = asyncio.Event()

    async def reads(request: web.Request) -> web.Response:
        began.set()
        return web.Response(body=await read_client_body(request, SIZE))

    proxy = await harness.proxy(
        await unused_url(),
        routes=[web.post("/reads", reads)],
        runner_options={"handler_cancellation": cancels},
    )
    records = Records(proxy)
    _, writer = await proxy.open()
    writer.write(b"POST /reads HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf")
    await began.wait()
    writer.transport.abort()
    record = await records.next()
    assert (record.status, record.sent_bytes) == (499, 0)


async def test_a_client_that_left_a_stream_of_ours_is_499(harness: Harness) -> None:
    """What it got until then is counted."""

    async def stream(request: web.Request) -> web.StreamResponse:
        answer = CountedResponse()
        await answer.prepare(request)
        await answer.write(b"12345")
        while True:
            await asyncio.sleep(0)
            if request.transport is None:
                raise ConnectionResetError

    proxy = await harness.proxy(await unused_url(), routes=[web.get("/stream", stream)])
    records = Records(proxy)
    reader, writer = await proxy.open()
    writer.write(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b"12345")
    writer.transport.abort()
    record = await records.next()
    assert (record.status, record.sent_bytes) == (499, 5)


async def test_the_frames_of_a_websocket_are_its_bytes(harness: Harness) -> None:
    """Counted as they pass, told of the request when it ends; pings are no data."""

    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                await socket.send_str(message.data * 2)
            else:
                await socket.send_bytes(message.data)
        return socket

    proxy = await harness.proxy(await harness.upstream(echo))
    records, traffic = Records(proxy), proxy.runner.app[ALL_TRAFFIC]
    async with proxy.client.ws_connect("/ws", max_msg_size=0) as socket:
        await socket.ping()
        await socket.send_str("grün")
        await socket.receive_str()
        assert traffic.totals == SocketTotals(clients=1, frames_to_client=1, frames_to_instance=1)
        await socket.send_bytes(bytes(SIZE))
        await socket.receive_bytes()
    record = await records.next()
    assert (record.status, record.policy) == (101, Policy.EVENTS)
    assert (record.received_bytes, record.sent_bytes) == (SIZE + 5, SIZE + 10)
    assert traffic.totals == SocketTotals(clients=0, frames_to_client=2, frames_to_instance=2)


@pytest.mark.parametrize("policy", ["ours", "merged"])
async def test_a_client_that_leaves_in_mid_answer_has_got_less(
    harness: Harness, policy: str
) -> None:
    """Of a picture of ours or a history put together: 499, and the bytes that went out."""
    size = 50_000_000

    async def picture(request: web.Request) -> web.StreamResponse:
        return web.Response(body=bytes(size)) if policy == "ours" else WholeAnswer(bytes(size))

    upstream = await harness.upstream(_answer)
    proxy = await harness.proxy(upstream, routes=[web.get("/picture", picture)])
    records = Records(proxy)
    reader, writer = await asyncio.open_connection(*proxy.address, limit=1024)
    writer.write(b"GET /picture HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readexactly(1024)
    writer.transport.abort()
    record = await records.next()
    assert record.status == 499
    assert 0 < record.sent_bytes < size
    async with proxy.client.get("/picture") as answer:
        assert len(await answer.read()) == size
    record = await records.next()
    assert (record.status, record.sent_bytes) == (200, size)
    async with proxy.client.head("/picture") as answer:
        assert answer.headers.get("Content-Length", str(size)) == str(size)
    assert (await records.next()).sent_bytes == 0
