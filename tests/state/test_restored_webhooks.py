"""Webhooks and restarts: what a client has asked for is sent, however the proxy was ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from job_client import form, noise, until
from loguru import logger
from restarting import Restarting
from standardwebhooks import Webhook
from webhook_receiver import SECRET, Receiver, hooks, receiving
from yarl import URL

from comfy_proxy.keys import STATE, WEBHOOKS
from comfy_proxy.state import sqlite_rows
from comfy_proxy.webhooks.deliveries import MAX_PENDING
from comfy_proxy.webhooks.delivery import Delivery

LONG_S = 60.0


@pytest.fixture
async def receiver(proxy: Restarting) -> AsyncIterator[Receiver]:
    """Allowed by the settings of ``proxy``."""
    async with receiving() as one:
        proxy.settings |= hooks(one)
        yield one


def pending(proxy: Restarting) -> int:
    return len(proxy.http.app[WEBHOOKS].deliveries)


def verified(receiver: Receiver) -> list[Any]:
    return [Webhook(SECRET).verify(told.body, told.headers) for told in receiver.received]


@pytest.mark.long
@pytest.mark.parametrize("killed", [True, False])
async def test_what_was_not_taken_yet(proxy: Restarting, receiver: Receiver, killed: bool) -> None:
    """It comes after the restart, under the same id and with the same body, and then no more."""
    await proxy.start()
    receiver.answers = [503]
    job_id = await proxy.jobs.submit(webhook_url=receiver.url)
    await receiver.next()
    if killed:
        proxy.killed_now()
    await proxy.stop()
    receiver.answers = [204]
    before = len(receiver.received)
    await proxy.start()
    await receiver.next(before + 1)
    assert len({(told.id, told.body) for told in receiver.received}) == 1
    assert verified(receiver)[-1] == await proxy.jobs.status(job_id)
    await until(lambda: not pending(proxy))
    sent = len(receiver.received)
    await proxy.restart()
    assert (pending(proxy), len(receiver.received)) == (0, sent)


@pytest.mark.long
async def test_a_thousand_at_once_and_a_stop(
    proxy: Restarting, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All come, before it or after; the file is written a few times, not for each of them."""
    writes: list[int] = []
    write = sqlite_rows.write

    def counting(database: Any, batch: Any) -> None:
        writes.append(len(batch))
        write(database, batch)

    monkeypatch.setattr(sqlite_rows, "write", counting)
    await proxy.start()

    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(0.2)
        return web.Response(status=204)

    receiver.answers = [slow]
    url, now = URL(receiver.url), datetime.now(UTC)
    for number in range(MAX_PENDING):
        proxy.http.app[WEBHOOKS].deliveries.add(
            Delivery(job_id=str(number), url=url, body=b"{}", ended_at=now)
        )
    await receiver.next()
    assert len([one for one in writes if one > 0]) < 20
    assert max(writes) >= MAX_PENDING // 2
    await receiver.next(10)
    await proxy.stop()
    assert len(receiver.received) < MAX_PENDING
    receiver.answers = [204]
    await proxy.start()
    await until(lambda: not pending(proxy))
    assert {told.id for told in receiver.received} == {f"msg_{at}" for at in range(MAX_PENDING)}


@pytest.mark.long
@pytest.mark.parametrize("begun", [True, False])
async def test_a_job_that_had_not_ended(proxy: Restarting, receiver: Receiver, begun: bool) -> None:
    """Killed right after its 202, or while it ran: its end is told by the next process."""
    await proxy.start(max_concurrent_jobs=1)
    url = {"webhook_url": receiver.url}
    blocking = await proxy.jobs.submit(seconds=LONG_S, **(url if begun else {}))
    await proxy.jobs.reaches(blocking, "processing")
    job_id = blocking if begun else await proxy.jobs.submit(picture=noise(), **url)
    proxy.killed_now()
    await proxy.restart()
    assert receiver.received == []
    await proxy.jobs.delete(blocking)
    await receiver.next()
    (told,) = verified(receiver)
    assert (told["job_id"], told["status"]) == (job_id, "failed" if begun else "completed")


async def test_a_job_that_cannot_go_on(
    proxy: Restarting, receiver: Receiver, tmp_path: Any
) -> None:
    """Its workflow is gone: it fails at the start, and that is told."""
    await proxy.start(max_concurrent_jobs=1)
    job_id = await proxy.jobs.submit(seconds=LONG_S, webhook_url=receiver.url)
    await proxy.jobs.reaches(job_id, "processing")
    (proxy.settings["workflow_directory"] / "timed.json").unlink()
    await proxy.restart()
    await receiver.next()
    (told,) = verified(receiver)
    assert (told["job_id"], told["status"]) == (job_id, "failed")
    assert told["error"]["code"] == "unknown_workflow"


async def test_a_host_that_is_allowed_no_more(proxy: Restarting, receiver: Receiver) -> None:
    """Nothing is sent there, which the log says, and nothing is kept of it."""
    said: list[str] = []
    await proxy.start(max_concurrent_jobs=1)
    receiver.answers = [503]
    await proxy.jobs.submit(webhook_url=receiver.url)
    await receiver.next()
    running = await proxy.jobs.submit(seconds=LONG_S, webhook_url=receiver.url)
    await proxy.stop()
    sent = len(receiver.received)
    logger.add(lambda line: said.append(line.record["message"]), level="ERROR")
    await proxy.start(webhook_allowed_hosts=(), webhook_secrets=())
    assert sum("its host is no longer allowed" in line for line in said) == 2
    await proxy.jobs.delete(running)
    await proxy.http.app[STATE].durable()
    await proxy.restart(**hooks(receiver))
    assert pending(proxy) == 0
    assert not proxy.http.app[WEBHOOKS].wanted
    assert len(receiver.received) == sent


async def test_a_key_of_before_there_were_webhooks(proxy: Restarting, receiver: Receiver) -> None:
    """A request without a URL has the fingerprint that it always had: its key finds its job."""
    await proxy.start()
    picture = noise()

    async def submit() -> str:
        async with proxy.http.post(
            "/api/workflows/timed",
            data=form(picture, salt=1),
            headers={"Idempotency-Key": "key"},
        ) as answer:
            return str((await answer.json())["job_id"])

    job_id = await submit()
    fingerprint = proxy.jobs.service.manager.get_job(job_id).request.fingerprint
    await proxy.jobs.ends(job_id)
    await proxy.restart()
    assert await submit() == job_id
    assert len(fingerprint) == 64


@pytest.mark.long
@pytest.mark.parametrize("record", [b"{", b"{}", b'{"url": 1, "body": null}', b"[]"])
async def test_a_record_that_cannot_be_read(
    proxy: Restarting, receiver: Receiver, record: bytes
) -> None:
    """It is logged and forgotten; the proxy starts."""
    await proxy.start()
    store = proxy.http.app[STATE]._store
    assert store is not None
    store.put("webhook", "some job", record)
    await proxy.restart()
    store = proxy.http.app[STATE]._store
    assert store is not None
    await store.flush()
    assert await store.entries("webhook") == []
