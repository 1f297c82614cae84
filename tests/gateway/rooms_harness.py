"""A tiny application that answers everything with one policy's function, over real instances."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from rooms import make_gateway

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.errors import ComfyProxyError
from comfy_proxy.gateway.exchange.context import CONTEXT, RequestContext
from comfy_proxy.gateway.exchange.error_answers import error_response
from comfy_proxy.gateway.gateway import Gateway
from comfy_proxy.gateway.routes import match
from comfy_proxy.settings import Settings, parse_instance

Client = TestClient[web.Request, web.Application]
HANDLERS: web.AppKey[list[web.Request]] = web.AppKey("handlers")
"""Requests that are being answered."""
PolicyFunction = Callable[[web.Request, Any, Any], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def gateway_over(*urls: str, **settings: Any) -> AsyncIterator[Gateway]:
    """A gateway whose cluster has connections and no background work."""
    cluster = Cluster(Settings(instances=tuple(parse_instance(url) for url in urls), **settings))
    await cluster.connections.start()
    try:
        yield make_gateway(cluster)
    finally:
        await cluster.close()


@asynccontextmanager
async def answering(function: PolicyFunction, gateway: Gateway) -> AsyncIterator[Client]:
    """A client of an application in which ``function`` answers every request."""

    async def handler(request: web.Request) -> web.StreamResponse:
        request[CONTEXT] = RequestContext("test")
        found = match(request.method, request.rel_url.raw_path)
        app[HANDLERS].append(request)
        try:
            return await function(request, found, gateway)
        except ComfyProxyError as error:
            return error_response(request, error)
        finally:
            app[HANDLERS].remove(request)

    app = web.Application(client_max_size=0)
    app[HANDLERS] = []
    app.router.add_route("*", "/{path:.*}", handler)
    server = TestServer(app, handler_cancellation=True)
    async with TestClient(server, auto_decompress=False) as client:
        yield client
