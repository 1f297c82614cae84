"""A gateway that keeps users' state over any instances, and health checks as a test tells them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web
from rooms_harness import HANDLERS, Client, answering, gateway_over
from yarl import URL

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.gateway import Gateway
from comfy_proxy.gateway.routes import Match
from comfy_proxy.gateway.state.shared_state import SharedState

FILE = "/userdata/workflows%2Fa.json"


async def eventually(condition: Callable[[], object]) -> None:
    """Return as soon as the condition holds; fails the test if it never does."""
    async with asyncio.timeout(10):
        while True:
            if condition():
                return
            await asyncio.sleep(0.001)


class StateRoom:
    """Two instances, the gateway over them and a client."""

    def __init__(self, urls: list[str], gateway: Gateway, client: Client) -> None:
        self.urls = urls
        self.gateway = gateway
        self.client = client
        self.shared: SharedState = gateway.state
        self.instances: tuple[Instance, ...] = gateway.cluster.instances
        self.handlers = client.app[HANDLERS]

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, bytes]:
        async with self.client.request(method, URL(path, encoded=True), **options) as answer:
            return answer.status, await answer.read()

    async def direct(self, number: int, path: str, method: str = "GET", **options: Any) -> Any:
        url = URL(self.urls[number] + path, encoded=True)
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url, **options) as answer,
        ):
            return answer.status, await answer.read()

    def lose(self, number: int) -> None:
        """The health checks have found out that it is down."""
        while self.instances[number].healthy:
            self.instances[number].fault("test")

    def regain(self, number: int, *, told: bool = True) -> None:
        """A health check passes again; ``told``: and the hook hears of it."""
        instance = self.instances[number]
        instance.breaker._cooldown_s = 0.0
        assert instance.breaker.begin_trial()
        instance.check_passed(0.0)
        if told:
            self.shared.heard(instance)

    async def until_up_to_date(self) -> None:
        await eventually(lambda: not any(map(self.shared.missed, self.instances)))


async def _state(request: web.Request, match: Match, gateway: Gateway) -> web.StreamResponse:
    return await gateway.state.answer(request, match)


@asynccontextmanager
async def state_room(*urls: str, **settings: Any) -> AsyncIterator[StateRoom]:
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(gateway_over(*urls, **settings))
        shared = SharedState(gateway.cluster)
        for instance in gateway.cluster.instances:
            instance.on_interruption.append(shared.interrupted)
        stack.push_async_callback(shared.close)
        gateway.state = shared
        client = await stack.enter_async_context(answering(_state, gateway))
        yield StateRoom(list(urls), gateway, client)
