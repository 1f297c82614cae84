"""PATCH /internal/logs/subscribe: told to all instances, and again at each new socket there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from events_harness import ScriptedInstance, listen, listen_itself, until

from comfy_proxy.gateway.events import upstream_socket


class Logging(ScriptedInstance):
    """Notes the subscriptions; ``status`` is its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.subscribed: list[Any] = []
        self.status = 200

    async def handler(self, request: web.Request) -> web.StreamResponse:
        if request.path != "/internal/logs/subscribe":
            return await super().handler(request)
        assert request.method == "PATCH"
        self.subscribed.append(await request.json())
        return web.Response(status=self.status)


@pytest.fixture
async def pair() -> AsyncIterator[list[tuple[str, Logging]]]:
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(2):
            instance = Logging()
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", instance.handler)
            server = await stack.enter_async_context(TestServer(app, shutdown_timeout=0.1))
            made.append((f"http://127.0.0.1:{server.port}", instance))
        yield made


@pytest.fixture
async def front(
    pair: list[tuple[str, Logging]],
    start_proxy: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    monkeypatch.setattr(upstream_socket, "_FIRST_BACKOFF_S", 0.01)
    return await start_proxy(*(url for url, _ in pair))


async def subscribe(front: Any, enabled: bool, **more: str) -> int:
    wanted = {"clientId": "me", "enabled": enabled, **more}
    async with front.patch("/internal/logs/subscribe", json=wanted) as answer:
        return int(answer.status)


async def test_it_is_told_to_all_and_repeated_at_a_new_socket(
    front: Any, pair: list[tuple[str, Logging]]
) -> None:
    """ComfyUI forgets it with the socket, and takes none without: the client has its own before."""
    (_, one), (_, two) = pair
    listener = await listen(front, "me")
    assert (one.open, two.open) == (0, 0)
    assert await subscribe(front, True) == 200
    assert (one.open, two.open) == (1, 1)
    wire, _ = await two.wire(), await one.wire()
    on = {"clientId": "me", "enabled": True}
    assert one.subscribed == two.subscribed == [on]
    wire.drop()
    await until(lambda: len(two.subscribed) == 2)
    assert two.subscribed == [on, on]
    assert await subscribe(front, False) == 200
    (await two.wire()).drop()
    await two.wire()
    await asyncio.sleep(0)
    assert two.subscribed == [on, on, {"clientId": "me", "enabled": False}]
    assert len(one.subscribed) == 2
    await listener.ws.close()


async def test_what_was_refused_is_not_repeated(
    front: Any, pair: list[tuple[str, Logging]]
) -> None:
    (_, one), (_, two) = pair
    one.status = 400
    assert await subscribe(front, True) == 400
    listener = await listen_itself(front, "me")
    await two.wire()
    assert len(two.subscribed) == 1
    await listener.ws.close()


async def test_no_more_than_the_clients_id_is_remembered(
    front: Any, pair: list[tuple[str, Logging]]
) -> None:
    """What else is in the body may be megabytes, a thousand times."""
    _, (_, two) = pair
    assert await subscribe(front, True, clientId="x" * 2_000) == 200
    assert await subscribe(front, True, more="x" * 2_000) == 200
    strangers, listener = await listen(front, "x" * 2_000), await listen(front, "me")
    await until(lambda: len(two.subscribed) == 3)
    assert two.subscribed[2] == {"clientId": "me", "enabled": True}
    await strangers.ws.close()
    await listener.ws.close()
