"""Kinds of request to what a custom node has added to the server: routes and a WebSocket.

The custom node is `tests/live/custom_nodes/comfy_proxy_test_routes.py`.
"""

from __future__ import annotations

import gzip

from kinds import Kind, ask, send
from kinds_wire import OWN, UPGRADE
from raw_http import BINARY, CLOSE, PING, TEXT, frame

MEGABYTE = 2**20
LARGE = bytes(range(256)) * 20_000  # more than aiohttp's 4 MiB for a message


def answer(query: str, *headers: str, **more: object) -> Kind:
    return ask(f"GET /proxy-test/answer?{query}", *headers, **more)


ROUTES: tuple[Kind, ...] = (
    ask("GET /proxy-test/echo?a=%2F&b=+&a=&%C3%A4"),
    ask(
        "GET /api/proxy-test/echo",
        "X-A: 1",
        "x-a: 2",
        "X-B:  b  ",
        "X-C: caf\xe9",
        "X-D: \xc3\xa9",
        "X-E:",
        name="echo, headers",
    ),
    ask(
        "GET /proxy-test/echo",
        "Cookie: a=b",
        "Authorization: Bearer t",
        "User-Agent: u",
        "Accept: */*",
        "Accept-Language: de",
        "Referer: http://other.example/page",
        "DNT: 1",
        name="echo, a browser's headers",
    ),
    ask("GET /proxy-test/echo", OWN, "Sec-Fetch-Site: same-origin", name="echo, a page"),
    ask(
        "GET /proxy-test/echo",
        "X-Forwarded-For: 10.0.0.1",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: outer",
        "Via: 1.1 outer",
        name="echo behind another proxy",
    ),
    ask(
        "GET /proxy-test/echo",
        "TE: trailers",
        "Keep-Alive: 5",
        "Proxy-Authorization: x",
        "Connection: keep-alive, X-Hop",
        "X-Hop: 1",
        name="echo, hop by hop",
    ),
    ask("PROPFIND /proxy-test/echo", "Depth: 1"),
    send("POST /proxy-test/echo", b"body", name="echo of a body"),
    send("PUT /proxy-test/echo", b"", "Content-Type: x/y", name="echo of an empty body"),
    send("PATCH /proxy-test/echo", bytes(MEGABYTE), chunked=True, name="echo of chunks"),
    send(
        "DELETE /proxy-test/echo", b"body", "Expect: 100-continue", name="echo of what was expected"
    ),
    send(
        "POST /proxy-test/echo",
        gzip.compress(b"body", mtime=0),
        "Content-Encoding: gzip",
        name="echo of a compressed body",
    ),
    send(
        "POST /proxy-test/echo", b"body", "Content-Encoding: identity", name="echo of an identity"
    ),
    answer("status=201&header=Location:/proxy-test/echo&header=X-A:1&header=x-a:2&body=made"),
    answer("status=302&header=Location:http://elsewhere.example/a%3Fb"),
    answer("status=302&header=Location:/proxy-test/echo"),
    answer("status=401&header=WWW-Authenticate:Basic%20realm%3Da&header=WWW-Authenticate:Bearer"),
    answer(
        "status=200&header=Set-Cookie:a=1&header=Set-Cookie:b=2%3B%20Path%3D/&header=Server:mine"
    ),
    answer("status=200&header=Content-Type:a/b&header=Access-Control-Allow-Origin:*&body=x"),
    answer("status=204&header=X-A:1"),
    answer("status=205"),
    answer("status=304&header=ETag:%22a%22"),
    answer("status=418&reason=I%20am%20a%20teapot&body=short"),
    answer("status=500&body=trouble"),
    answer("status=503&header=Retry-After:7&body=later"),
    answer("status=599&reason=odd"),
    answer("status=200&header=X-Empty:&header=Date:yesterday"),
    answer("header=X-Text:caf%C3%A9"),
    ask("HEAD /proxy-test/answer?body=12345&header=Content-Type:a/b"),
    ask("GET /proxy-test/gzip"),
    ask("GET /proxy-test/gzip", "Accept-Encoding: gzip", name="gzip, accepted"),
    ask(f"GET /proxy-test/large?bytes={3 * MEGABYTE + 1}"),
    ask(f"GET /proxy-test/large?bytes={3 * MEGABYTE + 1}&length"),
    ask("GET /proxy-test/large?bytes=5 HTTP/1.0", name="no length for HTTP/1.0"),
    ask("HEAD /proxy-test/large?bytes=5"),
    ask("GET /proxy-test/large?bytes=0"),
    send("POST /proxy-test/sink", bytes(3 * MEGABYTE), name="sink"),
    send("POST /proxy-test/sink", bytes(3 * MEGABYTE), chunked=True, name="sink of chunks"),
    ask("GET /proxy-test/sink"),
    ask("GET /proxy-test/answer?status=no"),
)

TOO_LARGE: tuple[Kind, ...] = (
    send("POST /prompt", bytes(100 * MEGABYTE + 1), name="prompt, too large"),
    send("POST /userdata/t", bytes(100 * MEGABYTE + 1), name="userdata, too large"),
    send("POST /upload/image", bytes(100 * MEGABYTE + 1), name="upload, too large"),
)

SOCKETS: tuple[Kind, ...] = (
    ask(
        "GET /proxy-test/socket",
        *UPGRADE,
        name="custom socket",
        frames=6,
        says=(
            frame(TEXT, "grüße".encode()),
            frame(BINARY, bytes(range(256))),
            frame(BINARY, LARGE),
            frame(TEXT, b""),
            frame(PING, b"are you there"),
            frame(TEXT, b"close"),
        ),
    ),
    ask(
        "GET /api/proxy-test/socket?x=%2F",
        *UPGRADE,
        OWN,
        name="custom socket, in pieces",
        frames=1,
        says=(frame(TEXT, b"one ", final=False) + frame(0, b"two"),),
    ),
    ask(
        "GET /proxy-test/socket",
        *UPGRADE,
        "Sec-WebSocket-Protocol: zeroth, second, first",
        name="custom socket, protocols",
        frames=1,
        says=(frame(CLOSE, b"\x0f\xa1mine"),),
    ),
    ask(
        "GET /proxy-test/socket",
        *UPGRADE,
        "Sec-WebSocket-Protocol: unknown",
        name="custom socket, an unknown protocol",
        frames=1,
        says=(frame(CLOSE, b""),),
    ),
    ask("GET /proxy-test/socket?refuse", *UPGRADE, name="custom socket, refused"),
    ask("GET /proxy-test/socket", name="custom socket, no handshake"),
    ask("POST /proxy-test/socket", *UPGRADE),
    ask(
        "GET /proxy-test/socket",
        *UPGRADE,
        name="custom socket, a broken frame",
        frames=1,
        says=(b"\xf3\x80\x00\x00\x00\x00",),
    ),
)
