"""HEAD: what GET would tell, without its body (RFC 9110 9.3.2)."""

from __future__ import annotations

from aiohttp import web
from gateway_harness import Harness


async def test_head_has_the_length_and_no_body(harness: Harness) -> None:
    """HEAD tells the length of what GET would give, and the connection goes on."""

    async def file(request: web.Request) -> web.Response:
        return web.Response(body=b"x" * 1234)

    proxy = await harness.proxy(await harness.upstream(file))
    for _ in range(2):
        async with proxy.client.head("/") as answer:
            assert answer.headers["Content-Length"] == "1234"
            assert await answer.read() == b""


async def test_head_of_a_stream_is_its_head(harness: Harness) -> None:
    """aiohttp's servers write a stream's body after a HEAD too: no 502, no strike, no body."""

    async def stream(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"X-Stream": request.method})
        await answer.prepare(request)
        await answer.write(b"frames " * 1000)
        return answer

    proxy = await harness.proxy(await harness.upstream(stream))
    for _ in range(4):
        answer = await proxy.exchange(
            b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        assert answer.startswith(b"HTTP/1.1 200 OK\r\nX-Stream: ")
        assert answer.endswith(b"\r\n\r\n")
        assert b"Transfer-Encoding" not in answer
    assert proxy.cluster.instances[0].breaker.consecutive_failures == 0
