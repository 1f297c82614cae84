"""Whoever posts under an id again has posted another prompt: it runs, and ends when it does."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.test_utils import TestClient
from ledger_front import take
from prompts_front import (
    LONG_S,
    Workers,
    ended,
    graph,
    instance_of,
    interrupt,
    post,
    recover,
    show,
    until,
)

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import GATEWAY
from comfy_proxy.ledger import events
from comfy_proxy.ledger.prompt import End, JobRef, Prompt
from comfy_proxy.ledger.states import Ending


@pytest.fixture
async def only(proxy: TestClient, workers: Workers) -> EmbeddedWorker:
    """The other worker is hidden; this one has run a prompt under the id "again"."""
    await recover(proxy, workers[1])
    workers[1].refuse_connections()
    workers[1].drop_connections()
    await ended(proxy, await post(proxy, prompt_id="again"))
    await until(lambda: not proxy.app[GATEWAY].ledger.live())
    return workers[0]


async def test_it_has_not_ended_because_an_earlier_one_has(
    proxy: TestClient, workers: Workers, only: EmbeddedWorker
) -> None:
    """The history has an entry of its id while it waits; then its instance dies: it is rescued."""
    gateway = proxy.app[GATEWAY]
    blocker = await post(proxy, graph(LONG_S))
    await until(lambda: blocker in only.started)
    await post(proxy, prompt_id="again")
    other = await post(proxy)
    async with proxy.post("/queue", json={"delete": [other]}) as answer:
        assert answer.status == 200
    await until(lambda: gateway.ledger.find(other) is None)
    instance = instance_of(proxy, only)
    await until(lambda: instance.prompts.queue_remaining == 2)
    await until(lambda: not gateway.reconciler._lookers.busy)
    assert gateway.ledger.find("again") is not None
    await only.kill()
    await show(proxy, workers[1])
    await until(lambda: "again" in workers[1].submitted)
    await interrupt(proxy, blocker)
    await ended(proxy, "again")
    await until(lambda: not gateway.ledger.live())


async def test_it_was_not_taken_because_an_earlier_one_was(
    proxy: TestClient, only: EmbeddedWorker
) -> None:
    """The connection breaks before it is taken: it is posted again, whatever the history has."""
    only.faults.hang = ("/prompt",)
    posting = asyncio.create_task(post(proxy, prompt_id="again"))
    await until(lambda: only.faults._waiters)
    only.drop_connections()
    only.faults.hang = ()
    await posting
    await until(lambda: only.executed == ["again"] * 2)


async def test_it_is_not_posted_again_because_only_its_answer_was_lost(
    proxy: TestClient, only: EmbeddedWorker
) -> None:
    """It was taken, and has ended before anybody asked."""
    only.faults.break_prompts = 1
    await post(proxy, prompt_id="again")
    await until(lambda: len(only.executed) > 1 and not proxy.app[GATEWAY].ledger.live())
    assert only.executed == ["again"] * 2


async def test_the_id_of_a_job_that_lives_is_refused(proxy: TestClient, workers: Workers) -> None:
    """It is seen in /queue, and a newer prompt would take the job's place on record."""
    ledger = proxy.app[GATEWAY].ledger
    prompt = Prompt(prompt_id="of-a-job", job=JobRef(job_id="j", job_type="upscale-image"))
    ledger.apply(events.Received(prompt=prompt))
    take(ledger, prompt, instance_of(proxy, workers[0]))
    body = {"prompt": graph(), "prompt_id": "of-a-job"}
    async with proxy.post("/prompt", json=body) as answer:
        assert (answer.status, (await answer.json())["code"]) == (400, "prompt_id_in_use")
    ledger.apply(events.Finished(prompt=prompt, end=End(ending=Ending.SUCCESS)))
    assert await post(proxy, prompt_id="of-a-job") == "of-a-job"
