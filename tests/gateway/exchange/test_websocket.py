"""A WebSocket through the proxy is the one that the two ends would have had without it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from gateway_harness import Harness, Proxy, RawServer, until_still, unused_url

from comfy_proxy.gateway.exchange import websocket
from comfy_proxy.gateway.exchange.websocket import close_payload
from comfy_proxy.metrics.records import Verdict

Talk = Callable[[web.WebSocketResponse], Awaitable[None]]
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + base64.b64encode(bytes(16)) + b"\r\n"
)


async def _speaking(harness: Harness, talk: Talk, **options: Any) -> Proxy:
    """A proxy to an instance whose WebSockets do ``talk``."""

    async def handler(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(**{"max_msg_size": 0, **options})
        await socket.prepare(request)
        await talk(socket)
        return socket

    return await harness.proxy(await harness.upstream(handler))


async def _echo(socket: web.WebSocketResponse) -> None:
    async for message in socket:
        await socket.send_frame(
            message.data if isinstance(message.data, bytes) else message.data.encode(),
            message.type,
        )


@pytest.mark.long
async def test_text_and_binary_frames_pass_both_ways(harness: Harness) -> None:
    """In order, whatever their size; ComfyUI's pictures exceed aiohttp's 4 MiB (PROTOCOL.md
    trap 23)."""
    proxy = await _speaking(harness, _echo)
    large = bytes(range(256)) * 4096 * 20  # 20 MiB
    async with proxy.client.ws_connect("/ws", max_msg_size=0) as socket:
        await socket.send_str("grüße")
        await socket.send_bytes(large)
        await socket.send_str("")
        assert await socket.receive_str() == "grüße"
        assert await socket.receive_bytes() == large
        assert await socket.receive_str() == ""


async def test_ping_and_pong_are_between_the_ends(harness: Harness) -> None:
    """The instance's pong answers the client's ping, with its payload, and the other way round."""
    got: asyncio.Queue[Any] = asyncio.Queue()

    async def talk(socket: web.WebSocketResponse) -> None:
        await socket.ping(b"from instance")
        got.put_nowait(await socket.receive())
        message = await socket.receive()
        got.put_nowait(message)
        await socket.pong(message.data + b"!")
        await socket.receive()

    proxy = await _speaking(harness, talk, autoping=False)
    async with proxy.client.ws_connect("/ws", autoping=False) as socket:
        ping = await socket.receive()
        assert (ping.type, ping.data) == (WSMsgType.PING, b"from instance")
        await socket.pong(ping.data)
        pong = await got.get()
        assert (pong.type, pong.data) == (WSMsgType.PONG, b"from instance")
        await socket.ping(b"from client")
        assert (await got.get()).data == b"from client"
        assert (await socket.receive()).data == b"from client!"


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "bye"), (4321, "käse" * 10)])
async def test_the_instances_close_code_and_reason_arrive(
    harness: Harness, code: int, reason: str
) -> None:
    """What the instance closes with is what the client sees, after all frames before it."""

    async def talk(socket: web.WebSocketResponse) -> None:
        await socket.send_str("last")
        await socket.close(code=code, message=reason.encode())

    proxy = await _speaking(harness, talk)
    async with proxy.client.ws_connect("/ws", autoclose=False) as socket:
        assert await socket.receive_str() == "last"
        message = await socket.receive()
        assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, code, reason)


async def test_the_clients_close_code_and_reason_arrive(harness: Harness) -> None:
    """And the instance's answer to it comes back: its code, not one of ours."""
    got: asyncio.Queue[Any] = asyncio.Queue()

    async def talk(socket: web.WebSocketResponse) -> None:
        got.put_nowait(await socket.receive())
        await socket.close(code=4002, message=b"seen")

    proxy = await _speaking(harness, talk, autoclose=False)
    async with proxy.client.ws_connect("/ws") as socket:
        await socket.close(code=4001, message=b"enough")
        message = await got.get()
        assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, 4001, "enough")
        assert socket.close_code == 4002


async def test_a_close_without_a_code_stays_one(harness: Harness) -> None:
    """An empty close frame (1005 for the application) is passed on empty, and only once."""
    got: asyncio.Queue[Any] = asyncio.Queue()

    async def talk(socket: web.WebSocketResponse) -> None:
        got.put_nowait(await socket.receive())
        await socket.send_frame(b"", WSMsgType.CLOSE)

    proxy = await _speaking(harness, talk, autoclose=False)
    reader, writer = await proxy.open()
    writer.write(HANDSHAKE + b"\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    writer.write(b"\x88\x80\0\0\0\0")  # a masked, empty close frame
    message = await got.get()
    assert (message.type, message.data) == (WSMsgType.CLOSE, 0)
    assert await reader.read() == b"\x88\x00"
    writer.close()


async def test_an_instance_that_drops_the_connection_drops_the_client(harness: Harness) -> None:
    """No close frame comes from us: the client sees 1006 as it would without a proxy."""

    async def talk(socket: web.WebSocketResponse) -> None:
        await socket.send_str("then gone")
        transport = socket._req.transport  # type: ignore[union-attr]
        assert transport is not None
        transport.close()

    proxy = await _speaking(harness, talk)
    reader, writer = await proxy.open()
    writer.write(HANDSHAKE + b"\r\n")
    await reader.readuntil(b"then gone")
    assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("handler_cancellation", [False, True])
async def test_a_client_that_drops_the_connection_drops_the_instance(
    harness: Harness, handler_cancellation: bool
) -> None:
    """The instance sees its connection end without a close frame."""
    end: asyncio.Queue[bytes] = asyncio.Queue()
    upstream = await harness.raw(_accepting(end))
    proxy = await harness.proxy(
        upstream.url, runner_options={"handler_cancellation": handler_cancellation}
    )
    reader, writer = await proxy.open()
    writer.write(HANDSHAKE + b"\r\n")
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()
    assert await end.get() == b""


def _accepting(end: asyncio.Queue[bytes]) -> Any:
    """An instance that opens the WebSocket and reports the bytes until its end."""

    async def script(server: RawServer, reader: asyncio.StreamReader, writer: Any) -> None:
        key = server.heads[-1].lower().split(b"sec-websocket-key: ")[1].split(b"\r\n")[0]
        index = server.heads[-1].lower().index(key)
        key = server.heads[-1][index : index + len(key)]
        accept = base64.b64encode(
            hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        )
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        end.put_nowait(await reader.read())

    return script


async def test_no_compression_is_negotiated(harness: Harness) -> None:
    """permessage-deflate is offered to nobody and accepted from nobody."""
    offered: list[str | None] = []

    async def handler(request: web.Request) -> web.WebSocketResponse:
        offered.append(request.headers.get("Sec-WebSocket-Extensions"))
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await _echo(socket)
        return socket

    proxy = await harness.proxy(await harness.upstream(handler))
    async with proxy.client.ws_connect("/ws", compress=15) as socket:
        await socket.send_str("x" * 1000)
        assert await socket.receive_str() == "x" * 1000
        assert socket.compress == 0
    assert offered == [None]


async def test_the_instance_chooses_the_subprotocol(harness: Harness) -> None:
    """All that the client offers reach the instance, and its choice the client."""

    async def talk(socket: web.WebSocketResponse) -> None:
        await socket.send_str(socket.ws_protocol or "none")
        await socket.receive()

    proxy = await _speaking(harness, talk, protocols=("second",))
    async with proxy.client.ws_connect("/ws", protocols=("first", "second")) as socket:
        assert socket.protocol == "second"
        assert await socket.receive_str() == "second"


async def test_headers_and_query_reach_the_instance_and_its_headers_the_client(
    harness: Harness,
) -> None:
    """Cookies both ways, the target byte for byte; the origin, judged here, ends here."""

    async def handler(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        socket.headers.add("Set-Cookie", "a=1")
        socket.headers.add("Set-Cookie", "b=2")
        await socket.prepare(request)
        assert "Origin" not in request.headers
        await socket.send_json([request.raw_path, request.headers["Cookie"]])
        await socket.receive()
        return socket

    proxy = await harness.proxy(await harness.upstream(handler))
    host, port = proxy.address
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(
        HANDSHAKE.replace(b"/ws", b"/ws?clientId=%2F&x")
        + b"Cookie: c=3\r\nOrigin: http://localhost\r\n\r\n"
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.count(b"Set-Cookie: ") == 2
    assert b"X-Request-ID: " in head
    assert b'["/ws?clientId=%2F&x", "c=3"]' in await reader.readuntil(b"]")
    writer.close()


@pytest.mark.parametrize("status", [403, 404, 302])
async def test_a_refused_handshake_is_the_clients_answer(harness: Harness, status: int) -> None:
    """Status, headers and body of the instance's refusal; a redirect is not followed."""

    async def refuse(request: web.Request) -> web.Response:
        return web.Response(status=status, text="no", headers={"X-Why": "1", "Location": "/else"})

    proxy = await harness.proxy(await harness.upstream(refuse))
    reader, writer = await proxy.open()
    writer.write(HANDSHAKE + b"\r\n")
    answer = await reader.readuntil(b"\r\n\r\nno")
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"X-Why: 1\r\n" in answer
    writer.close()
    assert (await proxy.cluster.attempts.get()).verdict is Verdict.OK


async def test_a_dead_instance_is_passed_over(harness: Harness) -> None:
    """Nothing was sent: the handshake goes to the next one."""

    async def handler(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await _echo(socket)
        return socket

    proxy = await harness.proxy(await unused_url(), await harness.upstream(handler))
    async with proxy.client.ws_connect("/ws") as socket:
        await socket.send_str("hello")
        assert await socket.receive_str() == "hello"


async def test_nobody_left_is_503(harness: Harness) -> None:
    """The handshake is answered with the JSON error and Retry-After."""
    proxy = await harness.proxy(await unused_url())
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await proxy.client.ws_connect("/ws")
    assert caught.value.status == 503
    assert caught.value.headers is not None
    assert "Retry-After" in caught.value.headers


async def test_a_client_that_reads_nothing_stops_the_instance(harness: Harness) -> None:
    """Frames do not pile up in the proxy: flow control reaches the sender."""
    sent = 0
    gone = asyncio.Event()

    async def talk(socket: web.WebSocketResponse) -> None:
        nonlocal sent
        try:
            for _ in range(100):
                await socket.send_bytes(bytes(1_048_576))
                sent += 1
        finally:
            gone.set()

    proxy = await _speaking(harness, talk)
    reader, writer = await proxy.open()
    writer.write(HANDSHAKE + b"\r\n")
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await until_still(lambda: sent)
    assert sent < 50
    writer.transport.abort()
    await gone.wait()


async def test_a_broken_frame_ends_both_legs(harness: Harness) -> None:
    """Whoever breaks the protocol is told 1002; the other end sees its connection cut."""
    end: asyncio.Queue[bytes] = asyncio.Queue()
    upstream = await harness.raw(_accepting(end))
    proxy = await harness.proxy(upstream.url)
    reader, writer = await proxy.open()
    writer.write(HANDSHAKE + b"\r\n")
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"\xf1\x80\0\0\0\0")  # reserved bits
    assert (await reader.readexactly(4))[2:] == struct.pack("!H", 1002)
    writer.close()
    assert await end.get() == b""


async def test_a_close_that_nobody_answers_ends_all_the_same(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After CLOSE_TIMEOUT_S both connections end."""
    monkeypatch.setattr(websocket, "CLOSE_TIMEOUT_S", 0.0)
    end: asyncio.Queue[bytes] = asyncio.Queue()
    upstream = await harness.raw(_accepting(end))
    proxy = await harness.proxy(upstream.url)
    reader, writer = await proxy.open()
    writer.write(HANDSHAKE + b"\r\n")
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"\x88\x80\0\0\0\0")
    assert await reader.read() == b""
    assert (await end.get())[:1] == b"\x88"
    writer.close()


async def test_a_stopping_proxy_tells_both_ends(harness: Harness) -> None:
    """1001 (going away) to the client and to the instance, without delay."""
    codes: asyncio.Queue[int | None] = asyncio.Queue()

    async def talk(socket: web.WebSocketResponse) -> None:
        await socket.receive()
        codes.put_nowait(socket.close_code)

    proxy = await _speaking(harness, talk)
    async with proxy.client.ws_connect("/ws") as socket:
        waiting = asyncio.create_task(socket.receive())
        await until_still(lambda: proxy.cluster.attempts.qsize())
        await proxy.runner.shutdown()
        message = await waiting
        assert message.type is WSMsgType.CLOSE
        assert message.data == 1001
        assert await codes.get() == 1001


@pytest.mark.parametrize(
    ("code", "reason", "payload"),
    [
        (0, "", b""),
        (1000, "", b"\x03\xe8"),
        (4000, "é", b"\x0f\xa0\xc3\xa9"),
        (1006, "", b"\x03\xea"),
        (1005, "x", b"\x03\xeax"),
    ],
)
def test_codes_that_must_not_be_sent_become_1002(code: int, reason: str, payload: bytes) -> None:
    """RFC 6455 7.4.1: 1005, 1006 and 1015 exist for the application only."""
    assert close_payload(code, reason) == payload
