"""What can go wrong while a long upload passes to the primary."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from files_front import Front, content_of, running_front
from gateway_harness import Harness
from manual_clock import ManualClock
from slow_upload import KIND, LONG, TAKEN, Primary, SlowUpload, dies, form_of, posted, takes

from comfy_proxy import bodies
from comfy_proxy.cluster.hang_watch import SILENCE_S
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.gateway.exchange import fanout
from comfy_proxy.gateway.files import uploads
from comfy_proxy.metrics.records import Attempt
from comfy_proxy.stored_bytes import StoredBytes

Pair = tuple[EmbeddedWorker, EmbeddedWorker]


@pytest.fixture
async def front(workers: Pair) -> AsyncIterator[Front]:
    async with running_front(*workers) as front:
        yield front


@pytest.mark.parametrize("kept_back", [1, 300_000])
async def test_a_primary_that_dies_in_the_middle(
    harness: Harness, workers: Pair, kept_back: int
) -> None:
    """The next one gets all bytes, though the client sends them once, and its answer is the
    client's."""
    address, body = await Primary(dies).start(harness), form_of(4 * LONG)
    async with running_front(address, workers[1]) as front:
        attempts = asyncio.Queue[Attempt]()
        front.instances[0].observers.append(attempts.put_nowait)
        async with SlowUpload(front, body, last=kept_back) as client:
            await attempts.get()
            assert await client.go_on() == (200, TAKEN)
    assert content_of(workers[1], "input/x.png") == 4 * LONG
    assert workers[1].uploads == ["input/x.png"]


async def test_a_primary_that_dies_with_all_of_it(harness: Harness, workers: Pair) -> None:
    """It has not answered, and may have written it: the next one is sent all of it."""

    async def dies_late(primary: Primary, request: web.Request) -> web.StreamResponse:
        await primary.take(request)
        return await dies(primary, request)

    address, body = await Primary(dies_late).start(harness), form_of(LONG)
    async with (
        running_front(address, workers[1]) as front,
        SlowUpload(front, body) as client,
    ):
        assert await client.go_on() == (200, TAKEN)
    assert content_of(workers[1], "input/x.png") == LONG


async def test_a_primary_that_hangs_in_the_middle(harness: Harness, workers: Pair) -> None:
    """As one that dies, and it is found out while the client still sends."""

    async def hangs(primary: Primary, request: web.Request) -> web.StreamResponse:
        await primary.take(request, 1)
        await asyncio.Event().wait()
        return web.Response()

    primary, body = Primary(hangs), form_of(LONG)
    address = await primary.start(harness)
    async with running_front(address, workers[1]) as front:
        clock, instance = front.gateway.cluster.clock, front.instances[0]
        assert isinstance(clock, ManualClock)
        async with SlowUpload(front, body) as client:
            await primary.begun.wait()
            while not instance.failing:
                await clock.advance(SILENCE_S)
            while instance.healthy:  # else the client waits for its copy
                instance.fault("hangs")
            assert await client.go_on() == (200, TAKEN)
    assert content_of(workers[1], "input/x.png") == LONG


async def test_one_after_the_other_is_busy(
    front: Front, workers: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each misses a check while it writes 100 MB, say: then one of them is waited for."""
    asked: list[bool] = []

    async def ask(*names: Any, **options: Any) -> Any:
        asked.append(options["replaceable"])
        return await fanout.ask(*names, **options)

    monkeypatch.setattr(uploads, "ask", ask)
    for worker in workers:
        worker.faults.hang = ("/upload", "/system_stats")
    cluster = front.gateway.cluster
    assert isinstance(cluster.clock, ManualClock)
    posting = asyncio.create_task(posted(front, form_of(LONG)))
    async with asyncio.timeout(20):
        while len(asked) < 2:
            await cluster.clock.advance(SILENCE_S)
        workers[0].faults.clear()
        assert await cluster.health_checker.check(front.instances[0])
        while len(asked) < 3:
            await cluster.clock.advance(SILENCE_S)
        workers[1].faults.clear()  # it gets its copy
        status, text, _ = await posting
    assert (status, json.loads(text)["name"]) == (200, "x.png")
    assert asked == [True, True, False]


async def test_a_primary_that_is_removed_in_the_middle(harness: Harness, workers: Pair) -> None:
    """An operator takes it out: its connections are closed, and the next one gets all of it."""
    primary, body = Primary(takes), form_of(LONG)
    address = await primary.start(harness)
    async with running_front(address, workers[1]) as front:
        cluster, instance = front.gateway.cluster, front.instances[0]
        async with SlowUpload(front, body) as client:
            await primary.begun.wait()
            while instance.healthy:
                instance.fault("is removed")
            await cluster.connections.disconnect(instance)
            assert await client.go_on() == (200, TAKEN)
    assert content_of(workers[1], "input/x.png") == LONG


async def test_an_instance_that_reads_slowly_keeps_no_client_waiting(harness: Harness) -> None:
    """All of it is taken from the client at once, the rest of it waits on the disk here."""

    async def waits(primary: Primary, request: web.Request) -> web.StreamResponse:
        await primary.take(request, 1)
        await may_read.wait()
        return await takes(primary, request)

    may_read, body = asyncio.Event(), form_of(16 * LONG)
    primary = Primary(waits)
    address = await primary.start(harness)
    async with running_front(address) as front:
        sent = asyncio.Event()

        async def parts() -> AsyncIterator[bytes]:
            for begin in range(0, len(body), len(LONG)):
                yield body[begin : begin + len(LONG)]
            sent.set()

        headers = KIND | {"Content-Length": str(len(body))}
        posting = front.client.post("/upload/image", data=parts(), headers=headers)
        task = asyncio.create_task(posting.__aenter__())
        await sent.wait()
        may_read.set()
        answer = await task
        assert (answer.status, await answer.json()) == (200, TAKEN)
    assert primary.received == body


async def test_when_no_instance_is_left_the_client_is_told_so(harness: Harness) -> None:
    """After it has sent all, as always: 503."""
    addresses = [await Primary(dies).start(harness) for _ in "12"]
    async with running_front(*addresses) as front:
        status, _, headers = await posted(front, form_of(LONG))
        assert (status, "Retry-After" in headers) == (503, True)


async def test_instances_that_fail_while_a_client_sends_slowly(harness: Harness) -> None:
    """One after the other has a bad moment in those minutes. In the end they are asked anew."""

    async def dies_once(primary: Primary, request: web.Request) -> web.StreamResponse:
        if primary.begun.is_set():
            return await takes(primary, request)
        return await dies(primary, request)

    body, attempts = form_of(LONG), asyncio.Queue[Attempt]()
    addresses = [await Primary(dies_once).start(harness) for _ in "12"]
    async with running_front(*addresses) as front:
        for instance in front.instances:
            instance.observers.append(attempts.put_nowait)
        async with SlowUpload(front, body) as client:
            for _ in front.instances:
                await attempts.get()
            assert await client.go_on() == (200, TAKEN)


async def test_a_refusal_before_the_end_is_told_at_the_end(harness: Harness) -> None:
    """413 with the instance's words: the client has sent all of it by then, as it always had."""

    async def refuses(primary: Primary, request: web.Request) -> web.StreamResponse:
        return web.Response(status=413, text="100 MB", headers={"X-Own": "1"})

    address = await Primary(refuses).start(harness)
    async with running_front(address) as front:
        status, text, headers = await posted(front, form_of(4 * LONG))
        assert (status, text, headers["X-Own"]) == (413, b"100 MB", "1")


async def test_an_instance_that_does_not_wait_for_a_slow_client_gets_all_at_once(
    harness: Harness, workers: Pair
) -> None:
    """408 before the end is for our pace, which is the client's: it is asked again."""

    async def impatient(primary: Primary, request: web.Request) -> web.StreamResponse:
        if primary.begun.is_set():
            return await takes(primary, request)
        await primary.take(request, 1)
        return web.Response(status=408)

    primary, body = Primary(impatient), form_of(LONG)
    address = await primary.start(harness)
    async with running_front(address, workers[1]) as front:
        attempts = asyncio.Queue[Attempt]()
        front.instances[0].observers.append(attempts.put_nowait)
        async with SlowUpload(front, body) as client:
            await attempts.get()
            assert await client.go_on() == (200, TAKEN)
    assert primary.received == body


async def test_a_client_that_is_too_slow(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """408, and nothing is written."""
    monkeypatch.setattr(bodies, "SILENCE_S", 0.02)
    async with SlowUpload(front, form_of(LONG)) as client:
        status, told = await client.task
        assert (status, told["code"]) == (408, "request_timeout")
    assert [worker.uploads for worker in front.workers] == [[], []]


async def test_a_disk_that_is_full(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """503, and nothing is written anywhere: what cannot be kept cannot be copied either."""

    def full(self: StoredBytes, path: str, batch: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(StoredBytes, "_append", full)
    status, text, _ = await posted(front, form_of(4 * LONG))
    assert (status, b"storage_unavailable" in text) == (503, True)
    assert [worker.uploads for worker in front.workers] == [[], []]
