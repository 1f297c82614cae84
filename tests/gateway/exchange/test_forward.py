"""What a forwarded HTTP exchange promises, against real loopback servers and raw bytes."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest
from aiohttp import ClientConnectionError, ClientPayloadError, web
from gateway_harness import Harness, RawServer, until_still, unused_url
from yarl import URL

from comfy_proxy.gateway.exchange.client_watch import while_connected
from comfy_proxy.metrics.records import Verdict

MEGABYTE = 1_048_576
HUNDRED_MEGABYTES = 100 * MEGABYTE


async def _target(request: web.Request) -> web.Response:
    return web.Response(text=request.raw_path)


async def _hang(server: RawServer, reader: asyncio.StreamReader, writer: Any) -> None:
    """Never answer; note when the proxy closes the connection."""
    await reader.read()
    server.closed.set()


@pytest.mark.parametrize(
    "target",
    [
        "/a%2Fb",
        "/a/../b",
        "//a//b",
        "/a?",
        "/a?x",
        "/a?x=%2F&y=+&x=2",
        "/%C3%A4%20b",
        "/a;b=c,d",
        "/.",
    ],
)
@pytest.mark.parametrize("prefix", ["", "/comfy"])
async def test_the_target_is_kept_byte_for_byte(harness: Harness, target: str, prefix: str) -> None:
    """Path and query reach the instance as they were sent, behind the instance's own prefix."""
    upstream = await harness.upstream(_target)
    proxy = await harness.proxy(f"{upstream}{prefix}" if not prefix else upstream.with_path(prefix))
    answer = await proxy.exchange(
        f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    )
    assert answer.endswith(f"\r\n\r\n{prefix}{target}".encode())


async def test_an_absolute_form_target_is_forwarded_as_its_path(harness: Harness) -> None:
    """``GET http://host/path`` (RFC 9112 3.2.2) asks us, and the instance, for the path."""
    proxy = await harness.proxy(await harness.upstream(_target))
    answer = await proxy.exchange(
        b"GET http://localhost:1/a%2Fb?c HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    assert answer.endswith(b"\r\n\r\n/a%2Fb?c")


async def test_a_target_without_path_is_refused(harness: Harness) -> None:
    """``OPTIONS *`` names no resource: 400, and the instance is not asked."""
    proxy = await harness.proxy(await unused_url())
    answer = await proxy.exchange(
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
async def test_every_method_is_forwarded(harness: Harness, method: str) -> None:
    """Also those that no route of ours names."""

    async def method_of(request: web.Request) -> web.Response:
        return web.Response(text=request.method)

    proxy = await harness.proxy(await harness.upstream(method_of))
    async with proxy.client.request(method, "/x") as answer:
        assert await answer.text() == method


async def test_status_reason_and_body_of_an_error_are_comfyuis(harness: Harness) -> None:
    """Errors are part of the protocol (trap 21): nothing is turned into our JSON."""

    async def refuse(request: web.Request) -> web.Response:
        return web.Response(status=405, reason="No Way", text="nope", headers={"Allow": "PUT"})

    proxy = await harness.proxy(await harness.upstream(refuse))
    async with proxy.client.get("/") as answer:
        assert (answer.status, answer.reason) == (405, "No Way")
        assert answer.headers["Allow"] == "PUT"
        assert await answer.text() == "nope"


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_a_body_stay_so(harness: Harness, status: int) -> None:
    """204 and 304 end with their headers; the next request uses the same connection."""

    async def empty(request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"X-Case": '"a"'})

    proxy = await harness.proxy(await harness.upstream(empty))
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
    answer = await proxy.exchange(request + b"\r\n" + request + b"Connection: close\r\n\r\n")
    assert answer.count(f"HTTP/1.1 {status} ".encode()) == 2
    assert answer.count(b'X-Case: "a"') == 2
    assert b"chunked" not in answer.lower()


@pytest.mark.parametrize(
    ("wanted", "status", "body"),
    [("bytes=2-4", 206, b"234"), ("bytes=99-", 416, b""), (None, 200, b"0123456789")],
)
async def test_ranges_are_comfyuis(
    harness: Harness, tmp_path: Any, wanted: str | None, status: int, body: bytes
) -> None:
    """206 with Content-Range, 416, and the whole with ETag: as FileResponse gives them."""
    path = tmp_path / "picture.png"
    path.write_bytes(b"0123456789")

    async def view(request: web.Request) -> web.FileResponse:
        return web.FileResponse(path)

    proxy = await harness.proxy(await harness.upstream(view))
    async with proxy.client.get("/view", headers={"Range": wanted} if wanted else {}) as answer:
        assert (answer.status, await answer.read()) == (status, body)
        assert ("Content-Range" in answer.headers) == (status != 200)
        etag = answer.headers.get("ETag", "")
    if status == 200:
        async with proxy.client.get("/view", headers={"If-None-Match": etag}) as answer:
            assert answer.status == 304


async def test_compressed_answers_are_untouched(harness: Harness) -> None:
    """Content-Encoding, Content-Length and bytes are the instance's."""
    body = gzip.compress(b"x" * 10_000)

    async def compressed(request: web.Request) -> web.Response:
        return web.Response(body=body, headers={"Content-Encoding": "gzip"})

    proxy = await harness.proxy(await harness.upstream(compressed))
    async with proxy.client.get("/") as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert answer.headers["Content-Length"] == str(len(body))
        assert await answer.read() == body


async def test_chunks_are_passed_when_they_come(harness: Harness) -> None:
    """An endless answer (SSE) is not collected: each piece arrives before the next is made."""
    read: asyncio.Queue[None] = asyncio.Queue()

    async def stream(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for number in range(3):
            await answer.write(b"data: %d\n\n" % number)
            await read.get()
        return answer

    proxy = await harness.proxy(await harness.upstream(stream))
    async with proxy.client.get("/events") as answer:
        for number in range(3):
            assert await answer.content.readany() == b"data: %d\n\n" % number
            read.put_nowait(None)
        assert await answer.read() == b""


async def test_an_http_1_0_client_gets_the_end_of_the_body_by_the_end_of_the_connection(
    harness: Harness,
) -> None:
    """A body of unknown length is not chunked for 1.0, and the connection is closed after it."""

    async def stream(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"body")
        return answer

    proxy = await harness.proxy(await harness.upstream(stream))
    answer = await proxy.exchange(
        b"GET / HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n"
    )
    assert answer.endswith(b"\r\n\r\nbody")


async def test_a_chunked_upload_stays_chunked(harness: Harness) -> None:
    """A body without a length goes on without one, whole."""

    async def received(request: web.Request) -> web.Response:
        assert "Content-Length" not in request.headers
        return web.Response(body=await request.read())

    async def pieces() -> Any:
        for piece in (b"a", b"b" * 100_000, b"c"):
            yield piece

    proxy = await harness.proxy(await harness.upstream(received))
    async with proxy.client.post("/", data=pieces()) as answer:
        assert await answer.read() == b"a" + b"b" * 100_000 + b"c"


async def test_expect_continue_is_answered(harness: Harness) -> None:
    """A client that waits for 100 gets it, and the instance gets the body without Expect."""

    async def received(request: web.Request) -> web.Response:
        assert "Expect" not in request.headers
        return web.Response(body=await request.read())

    proxy = await harness.proxy(await harness.upstream(received))
    async with proxy.client.post("/", data=b"hello", expect100=True) as answer:
        assert await answer.read() == b"hello"


async def test_uploads_of_100_megabytes_pass_whatever_the_host_allows(harness: Harness) -> None:
    """The host application's client_max_size (1 MiB) is not the gateway's."""

    async def count(request: web.Request) -> web.Response:
        total = 0
        async for chunk in request.content.iter_any():
            total += len(chunk)
        return web.Response(text=str(total))

    async def body() -> Any:
        for _ in range(100):
            yield bytes(MEGABYTE)

    app = web.Application(client_max_size=MEGABYTE)
    proxy = await harness.proxy(await harness.upstream(count), app=app)
    async with proxy.client.post(
        "/", data=body(), headers={"Content-Length": str(HUNDRED_MEGABYTES)}
    ) as answer:
        assert await answer.text() == str(HUNDRED_MEGABYTES)


async def test_downloads_of_100_megabytes_pass(harness: Harness) -> None:
    """Every byte, with the length the instance gave."""

    async def give(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": str(HUNDRED_MEGABYTES)})
        await answer.prepare(request)
        for _ in range(100):
            await answer.write(bytes(MEGABYTE))
        return answer

    proxy = await harness.proxy(await harness.upstream(give))
    async with proxy.client.get("/") as answer:
        assert answer.content_length == HUNDRED_MEGABYTES
        total = 0
        async for chunk in answer.content.iter_any():
            total += len(chunk)
    assert total == HUNDRED_MEGABYTES


async def test_a_download_that_nobody_reads_is_not_collected(harness: Harness) -> None:
    """The instance is stopped by flow control long before 100 MB: memory is bounded."""
    written = 0

    async def give(server: RawServer, reader: Any, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % HUNDRED_MEGABYTES)
        for _ in range(100):
            writer.write(bytes(MEGABYTE))
            await writer.drain()
            written += MEGABYTE

    upstream = await harness.raw(give)
    proxy = await harness.proxy(upstream.url)
    reader, writer = await proxy.open()
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readexactly(1)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await until_still(lambda: written)
    assert written < HUNDRED_MEGABYTES / 2
    writer.close()


async def test_an_upload_that_nobody_reads_is_not_collected(harness: Harness) -> None:
    """The client is stopped by flow control when the instance does not read."""
    upstream = await harness.raw(_stall)
    proxy = await harness.proxy(upstream.url)
    _, writer = await proxy.open()
    writer.write(
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % HUNDRED_MEGABYTES
    )
    sent = 0

    async def send() -> None:
        nonlocal sent
        for _ in range(100):
            writer.write(bytes(MEGABYTE))
            await writer.drain()
            sent += MEGABYTE

    sending = asyncio.create_task(send())
    await until_still(lambda: sent)
    assert sent < HUNDRED_MEGABYTES / 2
    sending.cancel()
    writer.transport.abort()
    upstream.closed.set()


async def _stall(server: RawServer, reader: asyncio.StreamReader, writer: Any) -> None:
    """Read no more than the head."""
    writer.transport.pause_reading()
    await server.closed.wait()


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n0123\r\n",
    ],
)
async def test_an_answer_that_breaks_off_cuts_the_client(harness: Harness, head: bytes) -> None:
    """The client sees a broken transfer, never a short body that looks whole; it is a strike."""

    async def half(server: RawServer, reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(head)

    upstream = await harness.raw(half)
    proxy = await harness.proxy(upstream.url)
    with pytest.raises((ClientPayloadError, ClientConnectionError)):
        async with proxy.client.get("/") as answer:
            await answer.read()
    assert (await proxy.cluster.attempts.get()).verdict is Verdict.INSTANCE_FAULT


async def test_an_http_1_0_client_is_reset_when_the_answer_breaks_off(harness: Harness) -> None:
    """Where the end of the connection would end the body, the connection is reset instead."""

    async def half(server: RawServer, reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n0123\r\n")

    upstream = await harness.raw(half)
    proxy = await harness.proxy(upstream.url)
    with pytest.raises(ConnectionResetError):
        await proxy.exchange(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")


@pytest.mark.parametrize("handler_cancellation", [False, True])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_a_client_that_leaves_ends_the_upstream_request(
    harness: Harness, handler_cancellation: bool, method: bytes
) -> None:
    """While the instance is silent too, and whatever the host set; no strike for the instance."""
    upstream = await harness.raw(_hang)
    proxy = await harness.proxy(
        upstream.url, runner_options={"handler_cancellation": handler_cancellation}
    )
    _, writer = await proxy.open()
    body = b"" if method == b"GET" else b"Content-Length: 2\r\n\r\nhi"
    writer.write(method + b" / HTTP/1.1\r\nHost: localhost\r\n" + (body or b"\r\n"))
    await upstream.asked.wait()
    writer.close()
    await upstream.closed.wait()
    assert (await proxy.cluster.attempts.get()).verdict is Verdict.CLIENT_GONE


async def test_a_client_that_leaves_a_download_ends_it(harness: Harness) -> None:
    """The instance's endless answer is closed when its reader has gone."""

    async def endless(server: RawServer, reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            await writer.drain()

    upstream = await harness.raw(endless)
    proxy = await harness.proxy(upstream.url)
    async with proxy.client.get("/") as answer:
        await answer.content.readany()
        answer.close()
    await upstream.closed.wait()
    assert (await proxy.cluster.attempts.get()).verdict is not Verdict.INSTANCE_FAULT


async def test_a_client_that_leaves_an_upload_ends_it(harness: Harness) -> None:
    """A half sent body is no complete request: the instance sees the connection break."""
    upstream = await harness.raw(_hang)
    proxy = await harness.proxy(upstream.url)
    _, writer = await proxy.open()
    writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
    await upstream.asked.wait()
    writer.close()
    await upstream.closed.wait()
    assert (await proxy.cluster.attempts.get()).verdict is not Verdict.INSTANCE_FAULT


async def test_a_head_does_not_wait_for_its_body(harness: Harness) -> None:
    """Only a body that came together with its head leaves together with it."""

    async def slow_body(server: RawServer, reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        await seen.wait()
        writer.write(b"hi")

    seen = asyncio.Event()
    proxy = await harness.proxy((await harness.raw(slow_body)).url)
    reader, writer = await proxy.open()
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    seen.set()
    assert await reader.readexactly(2) == b"hi"
    writer.close()


async def test_a_later_request_of_a_connection_is_watched_too(harness: Harness) -> None:
    """The first one has ended: the client's leaving is told of the second alone."""

    async def one_answer(server: RawServer, reader: asyncio.StreamReader, writer: Any) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        await reader.readuntil(b"\r\n\r\n")
        second.set()
        await _hang(server, reader, writer)

    second = asyncio.Event()
    upstream = await harness.raw(one_answer)
    proxy = await harness.proxy(upstream.url)
    reader, writer = await proxy.open()
    writer.write(b"GET /models/1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b"hi")
    writer.write(b"GET /models/2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await second.wait()
    writer.close()
    await upstream.closed.wait()
    verdicts = [(await proxy.cluster.attempts.get()).verdict for _ in range(2)]
    assert verdicts == [Verdict.OK, Verdict.CLIENT_GONE]


async def test_keep_alive_goes_on_after_a_forwarded_request(harness: Harness) -> None:
    """Watching the connection leaves aiohttp's protocol as it was: requests follow each other."""
    proxy = await harness.proxy(await harness.upstream(_target))
    request = "GET /{} HTTP/1.1\r\nHost: localhost\r\n"
    pipelined = "".join(request.format(n) + "\r\n" for n in range(5))
    last = request.format(5) + "Connection: close\r\n\r\n"
    answer = await proxy.exchange((pipelined + last).encode())
    assert answer.count(b"HTTP/1.1 200 OK") == 6
    assert answer.endswith(b"/5")


async def test_a_malformed_body_is_the_clients_fault(harness: Harness) -> None:
    """Bytes that are not the gzip they claim to be: 400, and no strike for the instance."""
    proxy = await harness.proxy(await harness.upstream(_target))
    async with proxy.client.post(
        "/", data=b"this is not gzip", headers={"Content-Encoding": "gzip"}
    ) as answer:
        assert answer.status == 400
        assert (await answer.json())["code"] == "invalid_body"
    assert (await proxy.cluster.attempts.get()).verdict is Verdict.OK


async def test_a_failed_dial_is_repeated_on_the_next_instance(harness: Harness) -> None:
    """Nothing was sent, so a POST with a body may be tried again, whole."""

    async def received(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    proxy = await harness.proxy(await unused_url(), await harness.upstream(received))
    async with proxy.client.post("/prompt", data=b"body") as answer:
        assert (answer.status, await answer.read()) == (200, b"body")


async def _drop(server: RawServer, reader: asyncio.StreamReader, writer: Any) -> None:
    """Take the request and close without a word."""


async def test_a_get_is_repeated_after_it_was_sent(harness: Harness) -> None:
    """An instance that dies over a GET of a route that only reads is passed over."""
    dying = await harness.raw(_drop)
    proxy = await harness.proxy(dying.url, await harness.upstream(_target))
    async with proxy.client.get("/models") as answer:
        assert (answer.status, await answer.text()) == (200, "/models")


async def test_a_post_is_not_repeated_after_it_was_sent(harness: Harness) -> None:
    """It may have been carried out: 502, and the second instance is not asked."""
    dying = await harness.raw(_drop)
    second = await harness.raw(_drop)
    proxy = await harness.proxy(dying.url, second.url)
    async with proxy.client.post("/prompt", data=b"x") as answer:
        assert answer.status == 502
        assert (await answer.json())["code"] == "instance_unreachable"
    assert second.heads == []
    assert (await proxy.cluster.attempts.get()).verdict is Verdict.INSTANCE_FAULT


async def test_nobody_left_is_503_with_retry_after(harness: Harness) -> None:
    """When each dial failed the client is told so, and when to come back."""
    proxy = await harness.proxy(await unused_url(), await unused_url())
    async with proxy.client.get("/queue") as answer:
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert (await answer.json())["code"] == "no_instance"


async def test_an_instance_that_is_no_http_server_is_told_so(harness: Harness) -> None:
    """Garbage is 502 for this client, and is not repeated."""

    async def garbage(server: RawServer, reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")

    upstream = await harness.raw(garbage)
    proxy = await harness.proxy(upstream.url)
    async with proxy.client.get("/") as answer:
        assert answer.status == 502
        assert (await answer.json())["code"] == "instance_invalid_answer"


async def test_a_gateway_error_of_the_instance_is_passed_on_and_counted(harness: Harness) -> None:
    """503 of a server in front of ComfyUI: its bytes for the client, a strike for the breaker."""

    async def unavailable(request: web.Request) -> web.Response:
        return web.Response(status=503, text="booting", headers={"Retry-After": "7"})

    proxy = await harness.proxy(await harness.upstream(unavailable))
    async with proxy.client.get("/") as answer:
        assert (answer.status, await answer.text()) == (503, "booting")
        assert answer.headers["Retry-After"] == "7"
    assert (await proxy.cluster.attempts.get()).verdict is Verdict.INSTANCE_FAULT


async def test_an_early_answer_arrives_while_the_upload_goes_on(harness: Harness) -> None:
    """An instance that refuses a body before it has come is heard at once."""

    async def refuse(server: RawServer, reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await reader.read()

    upstream = await harness.raw(refuse)
    proxy = await harness.proxy(upstream.url)
    reader, writer = await proxy.open()
    writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nstart")
    assert (await reader.readuntil(b"big")).startswith(b"HTTP/1.1 413 Too Large\r\n")
    writer.close()


async def test_two_proxies_live_in_one_process(harness: Harness) -> None:
    """No state is shared: each serves its own instance."""

    def named(name: str) -> Any:
        async def answer(request: web.Request) -> web.Response:
            return web.Response(text=name)

        return answer

    first = await harness.proxy(await harness.upstream(named("first")))
    second = await harness.proxy(await harness.upstream(named("second")))
    async with first.client.get("/") as a, second.client.get("/") as b:
        assert (await a.text(), await b.text()) == ("first", "second")


async def test_watching_lets_other_timeouts_through(harness: Harness) -> None:
    """A TimeoutError that is not about the client's connection stays one."""
    seen: list[type[BaseException]] = []

    async def handler(request: web.Request) -> web.Response:
        try:
            with while_connected(request):
                raise TimeoutError
        except TimeoutError as error:
            seen.append(type(error))
        return web.Response()

    proxy = await harness.proxy(URL("http://127.0.0.1:9"), routes=[web.get("/own", handler)])
    async with proxy.client.get("/own") as answer:
        assert answer.status == 200
    assert seen == [TimeoutError]
