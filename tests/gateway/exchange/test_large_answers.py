"""An answer leaves its client's connection as good as it was, whatever the size of the answer."""

from __future__ import annotations

import io
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image

SIZES = [1, 65_535, 65_536, 300_000]
"""Bytes of padding: a small answer, two beside the size from which on a body goes in pieces, and
one of several pieces."""

VIEWS: dict[str, Callable[[str], Any]] = {
    "/queue": lambda pad: {"queue_running": [_row(pad)], "queue_pending": []},
    "/prompt": lambda pad: {"exec_info": {"queue_remaining": 0}, "pad": pad},
    "/history": lambda pad: {"x": {"prompt": _row(pad), "outputs": {}, "status": {}}},
    "/history/x": lambda pad: {"x": {"prompt": _row(pad), "outputs": {}, "status": {}}},
    "/api/jobs": lambda pad: {
        "jobs": [{"id": "x", "status": "pending", "pad": pad}],
        "pagination": {"offset": 0, "limit": None, "total": 1, "has_more": False},
    },
    "/api/jobs/x": lambda pad: {"id": "x", "status": "pending", "pad": pad},
    "/object_info": lambda pad: {"Big": {"input": {}, "name": pad}},
    "/object_info/Big": lambda pad: {"Big": {"input": {}, "name": pad}},
    "/internal/files/output": lambda pad: [pad],
    "/userdata": lambda pad: [pad],
    "/settings": lambda pad: {"pad": pad},
    "/users": lambda pad: {"storage": "server", "migrated": True, "pad": pad},
    "/": lambda pad: pad,
    "/view": lambda pad: pad,
}
COUNTED = ("/prompt",)
"""Of several instances only a sum is told, whatever else they say."""
OURS = ("/dashboard", "/metrics", "/health", "/api/jobs/list", "/api/jobs/none/status")


def _row(pad: str) -> list[Any]:
    return [0, "x", {"1": {"inputs": {"text": pad}}}, {}, []]


@asynccontextmanager
async def padded(size: int) -> AsyncIterator[str]:
    """An instance all of whose answers to GET are longer than ``size`` bytes; its address."""

    async def handler(request: web.Request) -> web.Response:
        if request.method == "POST":
            await request.read()
            return web.json_response({"error": {"message": "no"}}, status=400)
        if request.path == "/system_stats":
            return web.json_response({"system": {}})
        if (view := VIEWS.get(request.path)) is None:
            return web.json_response({})
        return web.json_response(view("x" * size))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


class OneConnection:
    """A client that keeps its connection; ``opened`` counts those that it had to open."""

    def __init__(self, base_url: str) -> None:
        self.opened = 0
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(self._count)
        self.session = aiohttp.ClientSession(
            base_url, connector=aiohttp.TCPConnector(limit=1), trace_configs=[trace]
        )

    async def _count(self, *_event: object) -> None:
        self.opened += 1

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, int]:
        """Status and length of the body."""
        async with self.session.request(method, path, **options) as answer:
            return answer.status, len(await answer.read())


@pytest.mark.long
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("instances", [1, 2])
async def test_a_post_follows_each_view_on_its_connection(
    start_proxy: Any, size: int, instances: int
) -> None:
    """GET, HEAD, GET, POST: every answer is whole, and one connection carries them all."""
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(padded(size)) for _ in range(instances)]
        proxy: TestClient = await start_proxy(*urls)
        client = OneConnection(str(proxy.make_url("/")))
        stack.push_async_callback(client.session.close)
        for path in VIEWS:
            status, length = await client.ask("GET", path)
            assert status == 200, path
            assert length > size or (path in COUNTED and instances > 1), path
            assert (await client.ask("HEAD", path))[1] == 0, path
            assert await client.ask("GET", path) == (200, length), path
            assert (await client.ask("POST", "/free", json={}))[0] == 400, path
        assert client.opened == 1


async def test_a_post_follows_our_own_answers(start_proxy: Any) -> None:
    """The page, the figures, lists and errors leave the connection open too."""
    async with padded(1) as url:
        proxy: TestClient = await start_proxy(url, url.replace("127.0.0.1", "localhost"))
        client = OneConnection(str(proxy.make_url("/")))
        try:
            for path in OURS:
                await client.ask("GET", path)
                assert (await client.ask("POST", "/free", json={}))[0] == 400, path
            assert client.opened == 1
        finally:
            await client.session.close()


async def test_a_post_follows_a_large_result(proxy: TestClient) -> None:
    """A job's picture: in the call itself, fetched by its id, and as JSON."""
    noise = io.BytesIO()
    Image.frombytes("RGB", (200, 200), random.Random(1).randbytes(120_000)).save(noise, "PNG")
    job = {"data": noise.getvalue(), "headers": {"Content-Type": "image/png", "Accept": "image/*"}}
    client = OneConnection(str(proxy.make_url("/")))
    try:
        async with client.session.post("/api/upscale-image?mode=async&scale=1", **job) as answer:
            result_url = (await answer.json())["result_url"] + "?wait=10"
        for accept in ("image/*", "application/json"):
            for method, path, options in (
                ("POST", "/api/upscale-image?mode=sync&scale=1", job),
                ("GET", result_url, {"headers": {"Accept": accept}}),
            ):
                status, length = await client.ask(method, path, **options)
                assert status == 200
                assert length > 65_536
        assert client.opened == 1
    finally:
        await client.session.close()
