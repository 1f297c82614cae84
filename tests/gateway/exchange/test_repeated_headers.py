"""A header that comes twice stays two headers, however it is spelt."""

from __future__ import annotations

from aiohttp import web
from gateway_harness import Harness


async def test_two_spellings_of_a_name_are_both_kept(harness: Harness) -> None:
    """``Cookie`` and ``cookie`` are one header that comes twice, and so are ``via`` and our Via."""
    seen: list[bytes] = []

    async def keep(request: web.Request) -> web.Response:
        seen.extend(b": ".join(header) for header in request.raw_headers)
        return web.Response()

    proxy = await harness.proxy(await harness.upstream(keep))
    await proxy.exchange(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: a=1\r\ncookie: b=2\r\nvia: 1.0 x\r\n"
        b"Connection: close\r\n\r\n"
    )
    assert [line for line in seen if line.lower().startswith((b"cookie", b"via"))] == [
        b"Cookie: a=1",
        b"Cookie: b=2",
        b"via: 1.0 x",
        b"via: 1.1 comfy-proxy",
    ]
