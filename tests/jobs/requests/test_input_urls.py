"""Files that a request names by a URL: from allowed hosts alone, bounded in size and time."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from aiohttp import FormData, web
from aiohttp.test_utils import TestServer
from job_client import JobClient, noise, until
from manual_clock import ManualClock

from comfy_proxy.allowed_hosts import parse_allowed_hosts
from comfy_proxy.errors import ComfyProxyError, InvalidFieldError
from comfy_proxy.jobs.requests.input_file import InputFile
from comfy_proxy.jobs.requests.input_urls import FETCH_TIMEOUT_S, MAX_URL_LENGTH, InputUrls

PNG = noise()
LIMIT = 100_000


class Files:
    """A server with files; ``asked`` are the paths, ``heads`` the headers that came."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.heads: list[Any] = []
        self.release = asyncio.Event()
        self.server: TestServer

    def url(self, path: str = "/a.png") -> str:
        return f"http://127.0.0.1:{self.server.port}{path}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        self.heads.append(request.headers.copy())
        match request.path:
            case "/a.png":
                return web.Response(body=PNG, headers={"Set-Cookie": "a=b"})
            case "/away":
                raise web.HTTPFound("/a.png")
            case "/large":
                return web.Response(body=bytes(LIMIT + 1))
            case "/endless":
                return await self._stream(request, bytes(LIMIT))
            case "/slow":
                return await self._stream(request, b"x")
            case "/bomb":
                packed = zlib.compress(bytes(50_000_000), 9)
                return web.Response(body=packed, headers={"Content-Encoding": "deflate"})
            case "/cut":
                response = web.StreamResponse(headers={"Content-Length": "1000"})
                await response.prepare(request)
                await response.write(b"x")
                assert request.transport is not None
                request.transport.close()
                return response
        raise web.HTTPNotFound

    async def _stream(self, request: web.Request, piece: bytes) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(3):
            await response.write(piece)
        await self.release.wait()
        return response


@pytest.fixture
async def files() -> AsyncIterator[Files]:
    """The server, on loopback."""
    made = Files()
    app = web.Application()
    app.router.add_get("/{path:.*}", made.answer)
    async with TestServer(app) as made.server:
        yield made
        made.release.set()


@pytest.fixture
async def fetch(files: Files, clock: ManualClock) -> AsyncIterator[Callable[..., Any]]:
    """``await fetch(url, allowed=…)`` → the file, or what was raised."""
    with ThreadPoolExecutor(1) as executor:
        made: list[Any] = []

        async def get(url: str, allowed: str | None = None) -> InputFile | ComfyProxyError:
            hosts = f"127.0.0.1:{files.server.port}" if allowed is None else allowed
            urls = InputUrls(parse_allowed_hosts(hosts), clock)
            file = InputFile(executor)
            made.extend((urls, file))
            try:
                await urls.fetch(url, file, field="image", limit=LIMIT)
            except ComfyProxyError as error:
                return error
            return await file.finish()

        yield get
        for one in made:
            if isinstance(one, InputUrls):
                await one.close()
            else:
                one.close()


async def test_a_file_of_an_allowed_host(fetch: Any, files: Files) -> None:
    """Its bytes, and its name for whom the content says nothing; we tell nothing of our client."""
    file = await fetch(files.url())
    assert (await file.read(), file.client_name) == (PNG, "a.png")
    assert not {"Cookie", "Authorization", "X-API-Key", "Referer"} & set(files.heads[0])


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/away", "url_failed"),
        ("/none", "url_failed"),
        ("/cut", "url_failed"),
        ("/large", "payload_too_large"),
        ("/endless", "payload_too_large"),
        ("/bomb", "payload_too_large"),
    ],
)
async def test_what_is_no_file(fetch: Any, files: Files, path: str, code: str) -> None:
    """A redirect is not followed; no more than the limit is read, unpacked or not."""
    error = await fetch(files.url(path))
    assert error.code == code
    assert files.asked == [path]


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("", "http://127.0.0.1:{port}/a.png"),
        ("127.0.0.1", "http://127.0.0.1:{port}/a.png"),
        ("localhost:{port}", "http://127.0.0.1:{port}/a.png"),
        ("127.0.0.1:{port}", "http://localhost:{port}/a.png"),
        ("127.0.0.1:{port}", "http://127.1:{port}/a.png"),
        ("127.0.0.1:{port}", "http://2130706433:{port}/a.png"),
        ("127.0.0.1:{port}", "http://0x7f.0.0.1:{port}/a.png"),
        ("127.0.0.1:{port}", "http://[::ffff:127.0.0.1]:{port}/a.png"),
        ("127.0.0.1:{port}", "http://me@127.0.0.1:{port}/a.png"),
        ("127.0.0.1:{port}", "http://me:pw@127.0.0.1:{port}/a.png"),
        ("127.0.0.1:{port}", "http://127.0.0.1:{port}@evil.example/a.png"),
        ("127.0.0.1:{port}", "http://evil.example#@127.0.0.1:{port}/a.png"),
        ("127.0.0.1:{port}", "http://evil.example\\@127.0.0.1:{port}/a.png"),
        ("127.0.0.1:{port}", "http://127.0.0.1:99999/a.png"),
        ("127.0.0.1:{port}", "http://127.0.0.1:{port}x/a.png"),
        ("127.0.0.1:{port}", "http:///a.png"),
        ("127.0.0.1:{port}", "http://"),
        ("127.0.0.1:{port}", "http://[::1"),
        ("127.0.0.1:{port}", "http://127.0.0.1:{port}/a b.png"),
        ("127.0.0.1:{port}", "http://127.0.0.1:{port}/a\r\nX: y"),
        ("127.0.0.1:{port}", "http://127.0.0.1:{port}/" + "a" * MAX_URL_LENGTH),
        ("*.example", "http://example/a.png"),
        ("*.example", "http://evilexample/a.png"),
    ],
)
async def test_a_url_that_is_not_allowed(fetch: Any, files: Files, allowed: str, url: str) -> None:
    """Refused before anybody is asked: other hosts and ports, other ways to write an address,
    credentials, and what is no URL."""
    port = str(files.server.port)
    error = await fetch(url.replace("{port}", port), allowed.replace("{port}", port))
    assert isinstance(error, InvalidFieldError)
    assert (error.code, error.field) == ("url_not_allowed", "image")
    assert files.asked == []


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/a.png", "FILE:///etc/passwd", "s3://a/b", "h2://"]
)
async def test_a_url_that_nobody_fetches(fetch: Any, url: str) -> None:
    """It is told which are fetched, also where no host is allowed."""
    for allowed in ("127.0.0.1", ""):
        error = await fetch(url, allowed)
        assert (error.code, error.field) == ("url_not_allowed", "image")
        assert "only http and https URLs are fetched" in error.message


async def test_a_host_that_nobody_serves(fetch: Any) -> None:
    """The reason is told, without the words of a library."""
    error = await fetch("http://127.0.0.1:9/a.png", "127.0.0.1:9")
    assert error.code == "url_failed"
    assert "Errno" not in error.message


async def test_a_slow_one(fetch: Any, files: Files, clock: ManualClock) -> None:
    """However it trickles: after the time limit the request is refused."""
    waiting = asyncio.create_task(fetch(files.url("/slow")))
    await until(lambda: files.asked and clock.waiting)
    await clock.advance(FETCH_TIMEOUT_S + 1)
    error = await waiting
    assert error.code == "url_failed"
    assert "60 seconds" in error.message


# --- in requests --------------------------------------------------------------------------


def as_form(url: str) -> dict[str, Any]:
    data = FormData(default_to_multipart=True)
    data.add_field("image", url)
    return {"data": data}


def trickled(url: str) -> dict[str, Any]:
    """The same form, sent byte by byte."""

    async def body() -> AsyncIterator[bytes]:
        head = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n'
        for at in range(0, len(whole := head + url.encode() + b"\r\n--b--\r\n")):
            yield whole[at : at + 1]
            await asyncio.sleep(0)

    return {"data": body(), "headers": {"Content-Type": "multipart/form-data; boundary=b"}}


@pytest.mark.long
@pytest.mark.parametrize(
    "way",
    [
        lambda url: {"json": {"image": url}},
        lambda url: {"data": {"image": url}},
        lambda url: {"params": {"image": url}},
        as_form,
        trickled,
    ],
)
async def test_a_request_may_name_its_file(
    start_jobs: Any, workers: Any, files: Files, way: Callable[[str], dict[str, Any]]
) -> None:
    """In JSON, in each kind of form and in the query."""
    hosts = parse_allowed_hosts(f"127.0.0.1:{files.server.port}")
    jobs: JobClient = await start_jobs(*workers, input_allowed_hosts=hosts)
    async with jobs.http.post("/api/workflows/timed", **way(files.url())) as answer:
        body = await answer.json()
        assert answer.status == 202, body
    assert (await jobs.ends(body["job_id"]))["status"] == "completed"
    async with jobs.http.post("/api/workflows/timed", **way(files.url("/away"))) as answer:
        assert (answer.status, (await answer.json())["code"]) == (400, "url_failed")


async def test_nothing_is_fetched_by_default(jobs: JobClient, files: Files) -> None:
    """Without INPUT_ALLOWED_HOSTS a URL is refused, and the setting is named."""
    async with jobs.http.post("/api/workflows/timed", json={"image": files.url()}) as answer:
        body = await answer.json()
    assert (answer.status, body["code"]) == (400, "url_not_allowed")
    assert "INPUT_ALLOWED_HOSTS" in body["error"]
    assert files.asked == []
