"""A request for a WebSocket that is no handshake is refused in the instance's own words."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from gateway_harness import Harness, RawServer

VALID = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def _request(headers: dict[str, str | None]) -> bytes:
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join(["GET /ws HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"Sec-WebSocket-Version": "12"}, b"Unsupported version: 12"),
        ({"Sec-WebSocket-Key": "short"}, b"Handshake error: 'short'"),
        ({"Sec-WebSocket-Key": None}, b"Handshake error: None"),
        ({"Connection": None}, b"No CONNECTION upgrade hdr: None"),
        ({"Upgrade": None}, b"No WebSocket UPGRADE hdr: None"),
    ],
)
async def test_the_instance_says_what_is_wrong(
    harness: Harness, change: dict[str, str | None], words: bytes
) -> None:
    """What it lacks is lacking there too; the connection serves the next request."""

    async def socket(request: web.Request) -> web.WebSocketResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        return answer

    proxy = await harness.proxy(await harness.upstream(socket))
    reader, writer = await proxy.open()
    for _ in range(2):
        writer.write(_request(VALID | change))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
        await reader.readuntil(words)
        if "Upgrade" in change:
            await reader.readuntil(b'"WebSocket".')
    writer.close()


async def test_who_does_not_want_a_socket_answers_as_ever(harness: Harness) -> None:
    """Of a failing handshake an ordinary route takes no notice, and neither do we."""

    async def features(request: web.Request) -> web.Response:
        return web.Response(text=f"{request.headers.get('Upgrade')} {request.path}")

    proxy = await harness.proxy(await harness.upstream(features))
    reader, writer = await proxy.open()
    writer.write(_request(VALID | {"Sec-WebSocket-Version": "12"}))
    await reader.readuntil(b"websocket /ws")
    writer.close()


async def test_an_upgrade_to_something_else_ends_here(harness: Harness) -> None:
    """h2c is between two neighbours (RFC 9110 7.8), and a way around every check of ours."""

    async def features(request: web.Request) -> web.Response:
        return web.Response(text=f"upgrade: {request.headers.get('Upgrade')}")

    proxy = await harness.proxy(await harness.upstream(features))
    reader, writer = await proxy.open()
    writer.write(_request({"Connection": "Upgrade", "Upgrade": "h2c"}))
    await reader.readuntil(b"upgrade: None")
    writer.close()


async def test_an_instance_that_takes_it_all_the_same_gets_no_socket(harness: Harness) -> None:
    """A 101 to what we know to be no handshake is a 400 of ours, and both connections are well."""

    async def accept(server: RawServer, reader: asyncio.StreamReader, writer: Any) -> None:
        head = b"HTTP/1.1 101 Switching Protocols\r\n"
        writer.write(head + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        await reader.read()
        server.closed.set()

    instance = await harness.raw(accept)
    proxy = await harness.proxy(instance.url)
    reader, writer = await proxy.open()
    writer.write(_request(VALID | {"Sec-WebSocket-Version": "12"}))
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    await instance.closed.wait()
    assert not proxy.cluster.instances[0].failing
    writer.close()
