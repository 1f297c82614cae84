"""A client's WebSocket is served after its handlers have returned, and ends for all who watch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from events_harness import LONG_S, hears, listen, until

from comfy_proxy.gateway.events.session import EventSession
from comfy_proxy.keys import GATEWAY, REQUEST_OBSERVERS
from comfy_proxy.metrics.records import RequestRecord

Start = Callable[..., Any]


async def test_it_is_one_request_that_ends_when_the_client_leaves(
    workers: Any, start_proxy: Start
) -> None:
    """Its record is told then, once, with all that was sent."""
    front = await start_proxy(*workers)
    records: list[RequestRecord] = []
    front.app[REQUEST_OBSERVERS].append(records.append)
    client = await listen(front, "me")
    await hears(client, front, "me", 1)
    assert not [one for one in records if one.path == "/ws"]
    await client.ws.close()
    await until(lambda: [one for one in records if one.path == "/ws"])
    (record,) = (one for one in records if one.path == "/ws")
    assert (record.status, record.policy) == (101, "events")
    assert record.sent_bytes > 1_000
    assert record.duration_s > 0


async def test_a_middleware_of_the_host_sees_its_end(workers: Any, start_proxy: Start) -> None:
    """Where there is one it is served as any other, inside of that."""
    left = asyncio.Event()

    @web.middleware
    async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        finally:
            if request.path == "/ws":
                left.set()

    front = await start_proxy(*workers, app=web.Application(middlewares=[watch]))
    client = await listen(front, "me")
    await hears(client, front, "me", 1)
    assert not left.is_set()
    await client.ws.close()
    async with asyncio.timeout(LONG_S):
        await left.wait()
    await until(lambda: len(front.app[GATEWAY].events) == 0)


@pytest.mark.logs_faults
async def test_a_fault_while_it_is_served_ends_it_and_is_logged(
    workers: Any, start_proxy: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the client stays."""

    async def fail(self: EventSession) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(EventSession, "run", fail)
    front = await start_proxy(*workers)
    client = await listen(front, "me")
    await client.until_closed()
    await until(lambda: len(front.app[GATEWAY].events) == 0)
