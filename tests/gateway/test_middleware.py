"""The way of every request: id, errors, keys, ours or forwarded, CORS, and the host's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from gateway_harness import Harness, Proxy, until_still, unused_url
from loguru import logger

from comfy_proxy.errors import InvalidFieldError, NotOursError, PayloadTooLargeError, QueueFullError
from comfy_proxy.gateway.exchange.context import CONTEXT
from comfy_proxy.keys import REQUEST_OBSERVERS
from comfy_proxy.metrics.records import RequestRecord

KEY = "s3cret-key"
APP = "http://app.example"
PREFLIGHT = {"Origin": APP, "Access-Control-Request-Method": "POST"}


async def _upstream(request: web.Request) -> web.Response:
    return web.Response(
        text=f"upstream {request.method} {request.raw_path}",
        headers={"X-Request-ID": "theirs", "Access-Control-Allow-Origin": "*"},
    )


async def _ours(request: web.Request) -> web.Response:
    return web.Response(text="ours")


@pytest.fixture
def log_lines() -> Iterator[list[str]]:
    """What loguru was told, as text."""
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message)), format="{level} {message}")
    yield lines
    logger.remove(sink)


def recorded(proxy: Proxy) -> list[RequestRecord]:
    """The records of the requests from now on."""
    records: list[RequestRecord] = []
    proxy.runner.app[REQUEST_OBSERVERS].append(records.append)
    return records


def _failing(error: BaseException) -> Any:
    async def handler(request: web.Request) -> web.Response:
        raise error

    return handler


# --- ours, the host's, or forwarded -------------------------------------------------------


async def test_ours_are_answered_and_everything_else_is_forwarded(harness: Harness) -> None:
    """A path of ours meets our handler; any other goes to the instance."""
    proxy = await harness.proxy(
        await harness.upstream(_upstream), routes=[web.get("/health", _ours)]
    )
    async with proxy.client.get("/health") as answer:
        assert await answer.text() == "ours"
    async with proxy.client.get("/queue") as answer:
        assert await answer.text() == "upstream GET /queue"


async def test_a_handler_may_leave_a_request_to_comfyui(harness: Harness) -> None:
    """NotOursError forwards it, body included: /api/jobs/{id} exists on both sides."""

    async def job(request: web.Request) -> web.Response:
        if request.match_info["id"] != "mine":
            raise NotOursError
        return web.Response(text="mine")

    async def body(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    routes = [web.post("/api/jobs/{id}", job)]
    proxy = await harness.proxy(await harness.upstream(body), routes=routes)
    async with proxy.client.post("/api/jobs/mine", data=b"x") as answer:
        assert await answer.text() == "mine"
    async with proxy.client.post("/api/jobs/theirs", data=b"whole body") as answer:
        assert await answer.text() == "whole body"


async def test_the_hosts_routes_are_untouched(harness: Harness) -> None:
    """No id, no JSON, no checks, no CORS: as if we were not there; also in sub-applications."""

    async def host(request: web.Request) -> web.Response:
        assert CONTEXT not in request
        raise web.HTTPGone(text="host's")

    sub = web.Application()
    sub.router.add_get("/a", host)
    app = web.Application()
    app.router.add_get("/host", host)
    app.router.add_get("/health", host)
    app.add_subapp("/sub/", sub)
    proxy = await harness.proxy(
        await unused_url(), app=app, routes=[web.get("/health", _ours)], api_keys=(KEY,)
    )
    for path in ("/host", "/health", "/sub/a"):
        async with proxy.client.get(path, headers={"Origin": "http://evil.example"}) as answer:
            assert (answer.status, await answer.text()) == (410, "host's")
            assert "X-Request-ID" not in answer.headers
    async with proxy.client.get("/sub/unknown") as answer:
        assert answer.status == 404


async def test_a_path_equal_to_the_hosts_last_one_stays_the_hosts(harness: Harness) -> None:
    """aiohttp would merge two routes of one path that follow each other into one resource."""

    async def host(request: web.Request) -> web.Response:
        return web.Response(text="host")

    app = web.Application()
    app.router.add_get("/metrics", host)
    proxy = await harness.proxy(await unused_url(), app=app, routes=[web.post("/metrics", _ours)])
    async with proxy.client.get("/metrics") as answer:
        assert await answer.text() == "host"
        assert "X-Request-ID" not in answer.headers
    async with proxy.client.post("/metrics") as answer:
        assert await answer.text() == "ours"


async def test_a_method_that_our_path_lacks_is_405(harness: Harness) -> None:
    """With Allow, and not forwarded; HEAD comes with GET."""
    proxy = await harness.proxy(await unused_url(), routes=[web.get("/health", _ours)])
    for method in ("POST", "OPTIONS", "PROPFIND"):
        async with proxy.client.request(method, "/health") as answer:
            assert answer.status == 405
            assert answer.headers["Allow"] == "GET, HEAD"
            assert (await answer.json())["code"] == "method_not_allowed"
    async with proxy.client.head("/health") as answer:
        assert answer.status == 200


async def test_a_method_that_a_shared_path_lacks_is_forwarded(harness: Harness) -> None:
    """ComfyUI may have it below /api/jobs; a path that only begins alike is not shared."""
    routes = [web.get("/api/jobs/{id}", _ours), web.get("/api/jobsx", _ours)]
    proxy = await harness.proxy(await harness.upstream(_upstream), routes=routes)
    async with proxy.client.post("/api/jobs/1") as answer:
        assert await answer.text() == "upstream POST /api/jobs/1"
    async with proxy.client.post("/api/jobsx") as answer:
        assert answer.status == 405


# --- the request id -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/ours", pytest.param("/fails", marks=pytest.mark.logs_faults), "/queue", "/stream"]
)
async def test_a_sane_request_id_is_on_every_answer(harness: Harness, path: str) -> None:
    """Ours, errors, forwarded and streamed ones; the instance's own does not win."""

    async def stream(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        return answer

    routes = [
        web.get("/ours", _ours),
        web.get("/fails", _failing(ValueError())),
        web.get("/stream", stream),
    ]
    proxy = await harness.proxy(await harness.upstream(_upstream), routes=routes)
    async with proxy.client.get(path, headers={"X-Request-ID": "a.B_c-9"}) as answer:
        assert answer.headers.getall("X-Request-ID") == ["a.B_c-9"]


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "<script>", "ä"])
async def test_another_request_id_is_replaced(harness: Harness, given: str) -> None:
    """What is no plain short token never reaches a log or an answer."""
    proxy = await harness.proxy(await harness.upstream(_upstream))
    async with proxy.client.get("/", headers={"X-Request-ID": given}) as answer:
        assert len(answer.headers["X-Request-ID"]) == 32


# --- errors -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidFieldError("scale", "scale must be a number."), 400, "invalid_parameter"),
        (QueueFullError("Too many jobs.", retry_after_s=3), 503, "queue_full"),
        (web.HTTPRequestEntityTooLarge(1, 2), 413, "payload_too_large"),
        (web.HTTPNotFound(), 404, "not_found"),
        pytest.param(
            RuntimeError("secret: /etc/shadow"),
            500,
            "internal_error",
            marks=pytest.mark.logs_faults,
        ),
    ],
)
async def test_every_error_is_json(
    harness: Harness, error: Exception, status: int, code: str
) -> None:
    """One shape for ours, aiohttp's and unexpected ones; nothing inner is told."""
    proxy = await harness.proxy(await unused_url(), routes=[web.get("/x", _failing(error))])
    async with proxy.client.get("/x") as answer:
        body = await answer.json()
        assert answer.status == status
        assert set(body) == {"error", "code", "details", "request_id"}
        assert body["code"] == code
        assert body["request_id"] == answer.headers["X-Request-ID"]
        assert "secret" not in str(body)
        assert answer.headers.get("Retry-After") == ("3" if status == 503 else None)


async def test_redirects_of_our_handlers_are_answers(harness: Harness) -> None:
    """HTTPFound is no error."""
    proxy = await harness.proxy(
        await unused_url(), routes=[web.get("/x", _failing(web.HTTPFound("/y")))]
    )
    async with proxy.client.get("/x", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (302, "/y")
        assert "X-Request-ID" in answer.headers


@pytest.mark.logs_faults
async def test_unexpected_errors_are_logged_with_their_trace(
    harness: Harness, log_lines: list[str]
) -> None:
    """The log has what the client must not see."""
    routes = [web.get("/x", _failing(RuntimeError("the reason")))]
    proxy = await harness.proxy(await unused_url(), routes=routes)
    async with proxy.client.get("/x"):
        pass
    assert any("RuntimeError: the reason" in line for line in log_lines)


@pytest.mark.logs_faults
async def test_an_error_in_mid_answer_cuts_the_connection(harness: Harness) -> None:
    """A stream of ours that fails does not end as if it were whole."""

    async def stream(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"part")
        await until_still(lambda: 0)
        raise RuntimeError("in mid-answer")

    proxy = await harness.proxy(await unused_url(), routes=[web.get("/x", stream)])
    reader, writer = await proxy.open()
    writer.write(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b"part\r\n")
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_a_refused_body_leaves_the_connection_usable(harness: Harness) -> None:
    """The error arrives although nobody read the body, and the next request is answered."""
    routes = [web.post("/x", _failing(PayloadTooLargeError("Too large."))), web.get("/y", _ours)]
    proxy = await harness.proxy(await unused_url(), routes=routes)
    post = b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000)
    get = b"GET /y HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = await proxy.exchange(post + get)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b"ours")


async def test_a_huge_refused_body_ends_the_connection(harness: Harness) -> None:
    """The client gets its JSON and Connection: close before it has sent everything."""
    routes = [web.post("/x", _failing(PayloadTooLargeError("Too large.")))]
    proxy = await harness.proxy(await unused_url(), routes=routes)
    reader, writer = await proxy.open()
    writer.write(b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\nxxxx")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    assert b"Connection: close\r\n" in head
    writer.close()


async def test_a_cancelled_handler_stays_cancelled(harness: Harness) -> None:
    """CancelledError is nobody's error: a host that cancels handlers sees it pass."""
    cancelled = asyncio.Event()
    entered = asyncio.Event()

    async def wait(request: web.Request) -> web.Response:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return web.Response()

    proxy = await harness.proxy(
        await unused_url(),
        routes=[web.get("/x", wait)],
        runner_options={"handler_cancellation": True},
    )
    records = recorded(proxy)
    _, writer = await proxy.open()
    writer.write(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await entered.wait()
    writer.close()
    await cancelled.wait()
    await until_still(lambda: len(records))
    assert [(one.method, one.path, one.status) for one in records] == [("GET", "/x", 499)]


# --- the record of each request -----------------------------------------------------------


async def test_each_request_is_one_record_without_its_query(harness: Harness) -> None:
    """Method, path, status, instance and id; a key in the URL or a header is not in it."""
    proxy = await harness.proxy(await harness.upstream(_upstream), api_keys=(KEY,))
    records = recorded(proxy)
    headers = {"X-API-Key": KEY, "X-Request-ID": "id-1"}
    async with proxy.client.post(f"/a%20b?token={KEY}", headers=headers):
        pass
    named = {"X-Request-ID": f"mine-{KEY}"}  # a key is no id: it would be logged and passed on
    async with proxy.client.get(f"/?token={KEY}", headers=named, allow_redirects=False) as answer:
        assert KEY not in answer.headers["X-Request-ID"]
    await until_still(lambda: len(records))
    first, second = records
    assert (first.method, first.path, first.status) == ("POST", "/a%20b", 200)
    assert (first.instance, first.request_id) == (proxy.cluster.instances[0].host, "id-1")
    assert second.status == 303
    assert KEY not in repr(records)


# --- security -----------------------------------------------------------------------------


async def test_refusals_are_json_and_nothing_is_forwarded(harness: Harness) -> None:
    """403 for a foreign host or origin, 401 with a challenge without a key."""
    proxy = await harness.proxy(await unused_url(), api_keys=(KEY,))
    for headers, status in (
        ({"Host": "evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({}, 401),
    ):
        async with proxy.client.get("/queue", headers=headers) as answer:
            assert answer.status == status
            assert (await answer.json())["request_id"] == answer.headers["X-Request-ID"]
            assert ("WWW-Authenticate" in answer.headers) == (status == 401)


@pytest.mark.parametrize("target", ["//evil.example/", "/\\evil.example/", "///evil.example/"])
async def test_the_token_redirect_stays_here(harness: Harness, target: str) -> None:
    """A link that begins with two slashes must not lead a browser to another host."""
    proxy = await harness.proxy(await unused_url(), api_keys=(KEY,))
    head = "Host: localhost\r\nConnection: close\r\n\r\n"
    answer = await proxy.exchange(f"GET {target}?token={KEY} HTTP/1.1\r\n{head}".encode())
    assert answer.startswith(b"HTTP/1.1 303 ")
    assert b"\r\nLocation: /evil.example/\r\n" in answer


async def test_foreign_sockets_are_refused(harness: Harness) -> None:
    """A WebSocket handshake from a foreign page gets 403; browsers do not protect us there."""
    proxy = await harness.proxy(await unused_url())
    async with proxy.client.get(
        "/ws",
        headers={
            "Origin": "http://evil.example",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        },
    ) as answer:
        assert answer.status == 403


# --- CORS ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/ours", "/queue"])
async def test_allowed_pages_get_cors_headers(harness: Harness, path: str) -> None:
    """On ours and on forwarded answers, once, in place of the instance's; errors too."""
    proxy = await harness.proxy(
        await harness.upstream(_upstream), routes=[web.get("/ours", _ours)], cors_origins=(APP,)
    )
    async with proxy.client.get(path, headers={"Origin": APP}) as answer:
        assert answer.status == 200
        assert answer.headers.getall("Access-Control-Allow-Origin") == [APP]
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        assert "X-Request-ID" in answer.headers["Access-Control-Expose-Headers"]
        assert answer.headers["Vary"] == "Origin"
    async with proxy.client.post("/ours", headers={"Origin": APP}) as answer:
        assert answer.status == 405
        assert answer.headers["Access-Control-Allow-Origin"] == APP


@pytest.mark.parametrize("path", ["/ours", "/queue"])
async def test_preflights_are_answered_here(harness: Harness, path: str) -> None:
    """Without a key and without an instance."""
    proxy = await harness.proxy(
        await unused_url(),
        routes=[web.get("/ours", _ours)],
        cors_origins=(APP,),
        api_keys=(KEY,),
    )
    headers = PREFLIGHT | {"Access-Control-Request-Headers": "X-API-Key"}
    async with proxy.client.options(path, headers=headers) as answer:
        assert answer.status == 200
        assert answer.headers["Access-Control-Allow-Origin"] == APP
        assert answer.headers["Access-Control-Allow-Methods"] == "POST"
        assert answer.headers["Access-Control-Allow-Headers"] == "X-API-KEY"
        assert "X-Request-ID" in answer.headers
    async with proxy.client.options(path, headers=PREFLIGHT | {"Origin": "http://x"}) as answer:
        assert answer.status == 403
        assert (await answer.json())["code"] == "foreign_origin"


async def test_any_origin_gets_no_credentials(harness: Harness) -> None:
    """``*`` opens the proxy to every page, but never together with its user's cookies."""
    proxy = await harness.proxy(await harness.upstream(_upstream), cors_origins=("*",))
    async with proxy.client.get("/queue", headers={"Origin": "http://any.example"}) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == "http://any.example"
        assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize("origin", ["null", "file://", "app://name"])
async def test_pages_without_an_address_get_no_credentials(harness: Harness, origin: str) -> None:
    """``null`` and ``file://`` bring a key in a header; an application's own scheme is its own."""
    named = origin == "app://name"
    proxy = await harness.proxy(
        await harness.upstream(_upstream), cors_origins=(origin,), api_keys=(KEY,)
    )
    headers = PREFLIGHT | {"Origin": origin, "Access-Control-Request-Headers": "X-API-Key"}
    async with proxy.client.options("/queue", headers=headers) as answer:
        assert answer.status == 200
        assert answer.headers["Access-Control-Allow-Origin"] == origin
        assert ("Access-Control-Allow-Credentials" in answer.headers) is named
    async with proxy.client.get("/queue", headers={"Origin": origin, "X-API-Key": KEY}) as answer:
        assert answer.status == 200
        assert answer.headers["Access-Control-Allow-Origin"] == origin
        assert ("Access-Control-Allow-Credentials" in answer.headers) is named


@pytest.mark.parametrize("cors", [{}, {"cors_origins": (APP,)}])
async def test_an_options_that_is_no_preflight_is_comfyuis(
    harness: Harness, cors: dict[str, Any]
) -> None:
    """With and without CORS; on a path of ours it is 405."""
    proxy = await harness.proxy(
        await harness.upstream(_upstream), routes=[web.get("/ours", _ours)], **cors
    )
    async with proxy.client.options("/queue") as answer:
        assert await answer.text() == "upstream OPTIONS /queue"
    async with proxy.client.options("/ours") as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


async def test_without_cors_origins_the_instances_headers_are_its_own(harness: Harness) -> None:
    """We answer nothing then, so its Access-Control headers pass."""
    proxy = await harness.proxy(await harness.upstream(_upstream))
    async with proxy.client.get("/queue") as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "Vary" not in answer.headers
