"""What is given up at an instance is deleted there, and nothing that was sent there since."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from events_harness import until
from ledger_front import accepted, take
from rooms_harness import gateway_over

from comfy_proxy.gateway.gateway import Gateway
from comfy_proxy.ledger import events


class Recorded:
    """An instance; ``running`` is what runs there, ``told`` what it was asked, in this order. Its
    answers to deletions wait for ``gate``, and are none while ``breaks``."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.running: list[str] = []
        self.breaks = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            rows = [[0, prompt_id, {}, {}, []] for prompt_id in self.running]
            return web.json_response({"queue_running": rows, "queue_pending": []})
        body = await request.json()
        self.told.append((request.path, body.get("delete", body.get("prompt_id"))))
        await self.gate.wait()
        if self.breaks and request.transport is not None:
            request.transport.abort()
        return web.json_response({})


@pytest.fixture
def worker() -> Recorded:
    return Recorded()


@pytest.fixture
async def gateway(worker: Recorded) -> AsyncIterator[Gateway]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", worker.handle)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(TestServer(app, shutdown_timeout=0.1))
        urls = f"127.0.0.1:{server.port}", "127.0.0.1:9"
        gateway = await stack.enter_async_context(gateway_over(*urls))
        yield gateway
        worker.gate.set()
        await gateway.zombies.close()


async def test_a_deletion_that_was_not_told_is_not_told_late(
    gateway: Gateway, worker: Recorded
) -> None:
    """The prompt is there once more: with the next deletion it would vanish from the queue."""
    ledger, instance = gateway.ledger, gateway.cluster.instances[0]
    one, two, three = (accepted(ledger, name, instance) for name in ("one", "two", "three"))
    worker.gate.clear()
    ledger.apply(events.GivenUp(prompt=one, ran=False))
    await until(lambda: bool(worker.told))
    ledger.apply(events.GivenUp(prompt=two, ran=False))
    worker.breaks = True
    worker.gate.set()
    await until(lambda: not gateway.zombies._telling.busy)
    worker.breaks = False
    gateway.zombies.heard(instance)
    await until(lambda: not instance.draining)
    take(ledger, two, instance)
    worker.told.clear()
    ledger.apply(events.GivenUp(prompt=three, ran=False))
    await until(lambda: not gateway.zombies._telling.busy)
    assert worker.told == [("/queue", ["three"])]


async def test_one_that_is_sent_there_again_meanwhile_is_left_alone(
    gateway: Gateway, worker: Recorded
) -> None:
    """It runs there, for there is nobody else, while the instance lets go of another."""
    ledger, instance = gateway.ledger, gateway.cluster.instances[0]
    one, two = (accepted(ledger, name, instance) for name in ("one", "two"))
    ledger.apply(events.GivenUp(prompt=one, ran=False))
    ledger.apply(events.GivenUp(prompt=two, ran=False))
    await until(lambda: not gateway.zombies._telling.busy)
    worker.gate.clear()
    worker.told.clear()
    gateway.zombies.heard(instance)
    await until(lambda: bool(worker.told))
    take(ledger, one, instance)
    worker.running = ["one"]
    worker.gate.set()
    await until(lambda: not instance.draining)
    assert worker.told[1:] == [("/history", ["two"])]
