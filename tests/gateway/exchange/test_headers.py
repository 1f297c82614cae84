"""Headers across the proxy: what ends here, what is added, what stays exactly as it is."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
from aiohttp import web
from gateway_harness import Harness, RawServer
from yarl import URL

KEY = "s3cret-key"


async def _echo(request: web.Request) -> web.Response:
    """The request's headers as a list of pairs, and its body's length."""
    body = await request.read()
    return web.json_response({"headers": list(request.headers.items()), "body": len(body)})


async def _seen(harness: Harness, headers: Any = None, **options: Any) -> dict[str, list[str]]:
    """Lower-case header name → values, as the instance saw them."""
    settings = options.pop("settings", {})
    proxy = await harness.proxy(await harness.upstream(_echo), **settings)
    method, path = options.pop("method", "GET"), options.pop("path", "/x")
    async with proxy.client.request(method, path, headers=headers, **options) as answer:
        assert answer.status == 200
        pairs = (await answer.json())["headers"]
    seen: dict[str, list[str]] = {}
    for name, value in pairs:
        seen.setdefault(name.lower(), []).append(value)
    return seen


async def test_hop_by_hop_headers_end_here_also_those_that_connection_names(
    harness: Harness,
) -> None:
    """Connection and what it names, Proxy-*, TE, Trailer, Upgrade and Keep-Alive are not sent."""
    seen = await _seen(
        harness,
        {
            "Connection": "keep-alive, X-Private",
            "X-Private": "1",
            "Keep-Alive": "timeout=5",
            "Proxy-Authorization": "Basic x",
            "Proxy-Connection": "keep-alive",
            "TE": "trailers",
            "Trailer": "X-T",
            "Upgrade": "h2c",
            "X-Public": "2",
        },
    )
    gone = {"x-private", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer"}
    assert gone.isdisjoint(seen)
    assert "upgrade" not in seen
    assert seen["x-public"] == ["2"]


async def test_forwarded_headers_are_set(harness: Harness) -> None:
    """The instance learns client address, scheme and the host that the client asked for."""
    seen = await _seen(harness, {"Host": "localhost:4711"})
    assert seen["x-forwarded-for"] == ["127.0.0.1"]
    assert seen["x-forwarded-proto"] == ["http"]
    assert seen["x-forwarded-host"] == ["localhost:4711"]
    assert seen["host"][0].startswith("127.0.0.1:")


async def test_forwarded_headers_are_extended(harness: Harness) -> None:
    """Behind another proxy its list goes on, and its scheme and host win."""
    seen = await _seen(
        harness,
        [
            ("X-Forwarded-For", "10.0.0.1"),
            ("X-Forwarded-For", "10.0.0.2"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "comfy.example"),
        ],
    )
    assert seen["x-forwarded-for"] == ["10.0.0.1, 10.0.0.2, 127.0.0.1"]
    assert seen["x-forwarded-proto"] == ["https"]
    assert seen["x-forwarded-host"] == ["comfy.example"]


async def test_nothing_is_added_that_the_client_did_not_send(harness: Harness) -> None:
    """aiohttp's automatic Accept, Accept-Encoding, User-Agent and Content-Type stay out."""
    upstream = await harness.upstream(_echo)
    proxy = await harness.proxy(upstream)
    answer = await proxy.exchange(
        b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
    )
    body = answer.partition(b"\r\n\r\n")[2].lower()
    for name in (b'"accept"', b'"accept-encoding"', b'"user-agent"', b'"content-type"'):
        assert name not in body
    assert b'["content-length", "2"]' in body


async def test_the_origin_that_was_judged_here_ends_here(harness: Harness) -> None:
    """ComfyUI would resolve its own name for it, in its event loop, at each request."""
    seen = await _seen(harness, {"Host": "localhost:3000", "Origin": "http://localhost:3000"})
    assert "origin" not in seen


@pytest.mark.parametrize("site", ["same-site", "same-origin", "none"])
async def test_no_instance_is_told_something_untrue_of_the_page(
    harness: Harness, site: str
) -> None:
    """``same-site`` is another origin: a custom node that refuses it must hear of it."""
    seen = await _seen(harness, {"Host": "localhost:3000", "Sec-Fetch-Site": site})
    assert seen["sec-fetch-site"] == [site]


LINK = {
    "Host": "localhost:3000",
    "Sec-Fetch-Site": "cross-site",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
}
"""What a browser sends when a link on a page of another site is followed."""


@pytest.mark.parametrize("path", ["/", "/assets/index-1.js"])
async def test_a_link_of_another_site_is_let_in_by_the_instance_too(
    harness: Harness, path: str
) -> None:
    """Newer versions refuse ``cross-site``, and ``same-origin`` would be a lie: it is not told."""
    seen = await _seen(harness, LINK, path=path)
    assert "sec-fetch-site" not in seen
    assert seen["sec-fetch-mode"] == ["navigate"]


async def test_a_link_of_another_site_to_a_custom_node_ends_here(harness: Harness) -> None:
    """Its GET may do something: it is refused before any instance hears of it."""
    proxy = await harness.proxy(await harness.upstream(_echo))
    async with proxy.client.get("/manager/reboot", headers=LINK) as answer:
        assert answer.status == 403


async def test_no_origin_is_invented(harness: Harness) -> None:
    """A client that is no browser stays one."""
    seen = await _seen(harness)
    assert "origin" not in seen
    assert "sec-fetch-site" not in seen


@pytest.mark.parametrize(
    "credentials",
    [
        {"X-API-Key": KEY},
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"Bearer {KEY}", "X-API-Key": KEY},
    ],
)
async def test_our_keys_stay_here(harness: Harness, credentials: dict[str, str]) -> None:
    """Neither header of ours reaches the instance, and no header holds the key."""
    seen = await _seen(harness, credentials, settings={"api_keys": (KEY,)})
    assert KEY not in str(seen)
    assert "x-api-key" not in seen


async def test_other_credentials_go_on(harness: Harness) -> None:
    """With keys of ours, ComfyUI's own cookies and another Authorization pass."""
    seen = await _seen(
        harness,
        {
            "X-API-Key": KEY,
            "Authorization": "Basic dTpw",
            "Cookie": "a=1; comfy_proxy_key=abc; b=2",
        },
        settings={"api_keys": (KEY,)},
    )
    assert seen["authorization"] == ["Basic dTpw"]
    assert seen["cookie"] == ["a=1; b=2"]


async def test_without_keys_nothing_is_taken_for_ours(harness: Harness) -> None:
    """Credentials of an installation without API_KEYS are ComfyUI's business."""
    sent = {"X-API-Key": "theirs", "Authorization": "Bearer theirs", "Cookie": "a=1"}
    seen = await _seen(harness, sent)
    assert {name: seen[name.lower()] for name in sent} == {n: [v] for n, v in sent.items()}


async def test_the_query_token_stays_here(harness: Harness) -> None:
    """``token=KEY`` of a request that is allowed otherwise is cut out, its neighbours are not."""

    async def target(request: web.Request) -> web.Response:
        return web.Response(text=request.raw_path)

    proxy = await harness.proxy(await harness.upstream(target), api_keys=(KEY,))
    url = f"/x?a=%2F&token={KEY}&token=other&b"
    async with proxy.client.post(URL(url, encoded=True), headers={"X-API-Key": KEY}) as answer:
        assert await answer.text() == "/x?a=%2F&token=other&b"


async def test_a_key_in_the_referer_stays_here(harness: Harness) -> None:
    """An address that was opened with ``?token=KEY`` is named by what its page asks for."""
    seen = await _seen(
        harness,
        {"X-API-Key": KEY, "Referer": f"http://localhost/dashboard?a=1&token={KEY}&b=%20"},
        settings={"api_keys": (KEY,)},
    )
    assert seen["referer"] == ["http://localhost/dashboard?a=1&b=%20"]


async def test_request_id_is_passed_on(harness: Harness) -> None:
    """The id that the client gave is the instance's too, and no second one is added."""
    seen = await _seen(harness, {"X-Request-ID": "abc-1"})
    assert seen["x-request-id"] == ["abc-1"]


async def test_decoded_body_is_not_called_encoded(harness: Harness) -> None:
    """aiohttp's server inflates a gzip body: header and length go, the bytes are right (20)."""
    payload = b"x" * 100_000
    proxy = await harness.proxy(await harness.upstream(_echo))
    sent = gzip.compress(payload)
    async with proxy.client.post("/x", data=sent, headers={"Content-Encoding": "gzip"}) as answer:
        received = await answer.json()
    assert received["body"] == len(payload)
    assert "content-encoding" not in {name.lower() for name, _ in received["headers"]}


async def test_encoded_body_goes_on_as_it_is_if_nobody_decoded_it(harness: Harness) -> None:
    """A host that runs with auto_decompress off hands over the gzip bytes: the header stays."""
    sent = gzip.compress(b"x" * 1000)
    proxy = await harness.proxy(
        await harness.upstream(_echo), runner_options={"auto_decompress": False}
    )
    async with proxy.client.post("/x", data=sent, headers={"Content-Encoding": "gzip"}) as answer:
        received = await answer.json()
    assert received["body"] == len(sent)
    assert ["Content-Encoding", "gzip"] in received["headers"]


async def test_two_cookies_stay_two(harness: Harness) -> None:
    """Set-Cookie cannot be joined by a comma; both arrive."""

    async def cookies(request: web.Request) -> web.Response:
        answer = web.Response()
        answer.headers.add("Set-Cookie", "a=1; Path=/")
        answer.headers.add("Set-Cookie", "b=2; Path=/")
        return answer

    proxy = await harness.proxy(await harness.upstream(cookies))
    async with proxy.client.get("/") as answer:
        assert answer.headers.getall("Set-Cookie") == ["a=1; Path=/", "b=2; Path=/"]


async def _answer_bytes(harness: Harness, head: bytes, request: bytes | None = None) -> bytes:
    """What a client gets when the instance's answer is ``head`` and two bytes."""

    async def script(server: RawServer, reader: Any, writer: Any) -> None:
        writer.write(head + b"Content-Length: 2\r\n\r\nok")
        await writer.drain()
        await reader.read()

    upstream = await harness.raw(script)
    proxy = await harness.proxy(upstream.url)
    return await proxy.exchange(
        request or b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )


async def test_hop_by_hop_headers_of_an_answer_end_here(harness: Harness) -> None:
    """What the answer's Connection names and Keep-Alive are the instance's hop alone."""
    answer = await _answer_bytes(
        harness,
        b"HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n"
        b"Proxy-Authenticate: Basic\r\nX-End: 2\r\n",
    )
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert b"x-end: 2" in head
    for name in (b"x-hop", b"keep-alive", b"proxy-authenticate"):
        assert name not in head


async def test_an_answer_gets_no_headers_of_aiohttps(harness: Harness) -> None:
    """Server and Content-Type that the instance did not send are not added."""
    answer = await _answer_bytes(harness, b"HTTP/1.1 299 Rather Fine\r\nX-A: 1\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 299 Rather Fine\r\n")
    assert b"server:" not in head.lower()
    assert b"content-type:" not in head.lower()
    assert body == b"ok"


async def test_control_characters_become_spaces(harness: Harness) -> None:
    """A header value that could break out of its line arrives as harmless text (injection)."""
    answer = await _answer_bytes(harness, b"HTTP/1.1 200 OK\r\nX-A: a\x01b\r\n")
    assert b"X-A: a b\r\n" in answer


async def test_header_bytes_that_are_no_utf8_are_not_lost(harness: Harness) -> None:
    """ISO-8859-1 text arrives as the same text; aiohttp's writer would leave the letter out."""
    answer = await _answer_bytes(harness, b"HTTP/1.1 200 OK\r\nX-A: caf\xe9\r\n")
    assert "X-A: café\r\n".encode() in answer


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("{base}/a?b", "/a?b"),
        ("{base}", "/"),
        ("/relative", "/relative"),
        ("https://elsewhere.example/a", "https://elsewhere.example/a"),
    ],
)
async def test_a_redirect_is_passed_on_not_followed(
    harness: Harness, location: str, expected: str
) -> None:
    """The client gets the 302; one to the instance's own address leads through us again."""

    async def redirect(request: web.Request) -> web.Response:
        base = f"http://{request.host}"
        return web.Response(status=302, headers={"Location": location.format(base=base)})

    proxy = await harness.proxy(await harness.upstream(redirect))
    async with proxy.client.get("/", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (302, expected)
