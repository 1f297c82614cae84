"""Custom routes of a gateway alone, in front of two servers that note what they are asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from ledger_front import accepted
from manual_clock import ManualClock
from rooms import make_gateway
from yarl import URL

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.exchange.context import CONTEXT, RequestContext
from comfy_proxy.gateway.exchange.error_answers import error_response
from comfy_proxy.gateway.gateway import Gateway
from comfy_proxy.gateway.routes import Policy, match
from comfy_proxy.ledger import events
from comfy_proxy.settings import Settings, parse_instance


class Pack:
    """An instance with a node pack: its memory by id, and a line for each request.

    ``status`` is what it answers to all but ``/memory/{id}``; if it ``dies`` it breaks the
    connection off instead.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = 200
        self.dies = False
        self.memory: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, bytes]] = []
        self.begun = asyncio.Event()  # the head of a request has come
        app = web.Application(client_max_size=0)
        app.router.add_get("/ws_of_pack", self._socket)
        app.router.add_route("*", "/memory/{id}", self._memory)
        app.router.add_route("*", "/{path:.*}", self._any)
        self.server = TestServer(app)

    @property
    def paths(self) -> list[str]:
        """Method and path with query of all requests."""
        return [f"{method} {path}" for method, path, _ in self.asked]

    async def _note(self, request: web.Request) -> bytes:
        self.begun.set()
        body = await request.read()
        self.asked.append((request.method, request.raw_path, body))
        return body

    async def _any(self, request: web.Request) -> web.Response:
        await self._note(request)
        if self.dies and request.transport is not None:
            request.transport.abort()
        return web.json_response({"by": self.name}, status=self.status)

    async def _memory(self, request: web.Request) -> web.Response:
        body, key = await self._note(request), request.match_info["id"]
        if request.method == "PUT":
            self.memory[key] = body
            return web.json_response({"by": self.name}, status=201)
        if key not in self.memory:
            return web.json_response({"by": self.name}, status=404)
        return web.Response(body=self.memory[key])

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        self.asked.append((request.method, request.raw_path, b""))
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            await ws.send_str(f"{self.name}: {message.data}")
        return ws


class CustomFront:
    """Two :class:`Pack`, the gateway in front of them, and a client of it."""

    def __init__(self, packs: tuple[Pack, Pack], gateway: Gateway, client: Any) -> None:
        self.one, self.two = packs
        self.gateway = gateway
        self.client: TestClient[web.Request, web.Application] = client

    @property
    def instances(self) -> tuple[Instance, ...]:
        return self.gateway.cluster.instances

    async def ask(self, method: str, path: str | URL, **options: Any) -> tuple[int, Any]:
        """Status, and who answered (``by``), or the JSON of an error of ours."""
        async with self.client.request(method, path, **options) as answer:
            data = await answer.json() if "json" in answer.content_type else await answer.read()
            return answer.status, data["by"] if isinstance(data, dict) and "by" in data else data

    def runs(self, prompt_id: str, at: Instance, client_id: str | None = None) -> None:
        """A prompt runs there."""
        accepted(self.gateway.ledger, prompt_id, at, client_id)
        self.gateway.ledger.apply(events.Began(prompt_id=prompt_id, instance=at))

    def hears(self, at: Instance, client_id: str = "me", kind: str = "choose", **data: Any) -> None:
        """A node there sends the client a frame of its own."""
        self.gateway.askers.heard(at, client_id, kind, data)

    def away(self, instance: Instance) -> None:
        """Its circuit is open."""
        while instance.healthy:
            instance.fault("away for the test")


@asynccontextmanager
async def custom_front(**settings: Any) -> AsyncIterator[CustomFront]:
    """A :class:`CustomFront` for as long as the block runs."""
    packs = Pack("one"), Pack("two")
    async with AsyncExitStack() as stack:
        for pack in packs:
            await pack.server.start_server()
            stack.push_async_callback(pack.server.close)
        urls = tuple(parse_instance(str(pack.server.make_url("/"))) for pack in packs)
        cluster = Cluster(Settings(instances=urls, **settings), clock=ManualClock())
        gateway = make_gateway(cluster)
        await cluster.connections.start()
        stack.push_async_callback(cluster.connections.close)
        stack.callback(gateway.files.close)
        stack.push_async_callback(gateway.custom.close)
        client = await stack.enter_async_context(TestClient(TestServer(_app(gateway))))
        yield CustomFront(packs, gateway, client)


def _app(gateway: Gateway) -> web.Application:
    async def handle(request: web.Request) -> web.StreamResponse:
        request[CONTEXT] = RequestContext("test")
        found = match(request.method, request.rel_url.raw_path)
        assert found.policy is Policy.CUSTOM
        try:
            return await gateway.custom.answer(request, found)
        except Exception as error:
            return error_response(request, error)

    app = web.Application(client_max_size=0)
    app.router.add_route("*", "/{path:.*}", handle)
    return app
