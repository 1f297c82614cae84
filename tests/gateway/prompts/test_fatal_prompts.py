"""A prompt that ends the process which runs it is tried twice in all; nobody else pays for it."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.test_utils import TestClient
from prompts_front import (
    PATIENCE_S,
    Http,
    Json,
    Workers,
    ended,
    get,
    graph,
    listening,
    post,
    recover,
    until,
)

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import GATEWAY

WAIT_S = 0.3
"""So long a prompt holds an instance up while others gather behind it."""


@pytest.fixture
def fatal(workers: Workers) -> Json:
    """A graph whose node ends the process, as a driver fault does, a while after it has begun.

    What begins and dies at once may do so before anybody has heard that the prompt before it ended.
    """
    for worker in workers:
        worker.faults.die_at_node = "FailNode"
    prompt = graph(WAIT_S)
    prompt["3"]["inputs"]["images"] = ["4", 0]
    prompt["4"] = {"class_type": "FailNode", "inputs": {"image": ["2", 0], "salt": 1}}
    return prompt


async def dies(worker: EmbeddedWorker) -> None:
    await until(lambda: not worker.running)


async def comes_back(proxy: Http, worker: EmbeddedWorker) -> None:
    await worker.restart()
    await recover(proxy, worker)


async def prompt_error(proxy: Http, prompt_id: str) -> Json:
    """What the history says of how it failed, as soon as it says anything: 503 while the instance
    that had it is down and nobody knows yet whether it goes on."""
    async with asyncio.timeout(PATIENCE_S):
        entries: Json = {}
        while prompt_id not in entries:
            async with proxy.get(f"/history/{prompt_id}") as answer:
                assert answer.status in (200, 503)
                entries = await answer.json()
    status = entries[prompt_id]["status"]
    assert (status["status_str"], status["completed"]) == ("error", False)
    ((kind, event),) = status["messages"]
    assert kind == "execution_error"
    return dict(event)


@pytest.mark.long
@pytest.mark.parametrize("listens", [True, False])
async def test_two_deaths_and_an_error(
    proxy: TestClient, workers: Workers, fatal: Json, listens: bool
) -> None:
    """Both instances die once; the client is told why, and a restart does not bring it back."""
    async with listening(proxy) as listener:
        fields = {"client_id": listener.client_id} if listens else {}
        prompt_id = await post(proxy, fatal, **fields)
        for worker in workers:
            await dies(worker)
        event = await prompt_error(proxy, prompt_id)
        assert "process ended 2 times" in event["exception_message"]
        if listens:
            await until(lambda: listener.over(prompt_id))
            assert listener.kinds(prompt_id)[-2:] == ["execution_error", "executing"]
            assert (event["node_id"], event["node_type"]) == ("4", "FailNode")
            await until(lambda: listener.sums()[-1] == 0)
        for worker in workers:
            await comes_back(proxy, worker)
        innocent = await post(proxy, graph())
        await ended(proxy, innocent)
    started = [*workers[0].started, *workers[1].started]
    assert sorted(started) == sorted([prompt_id, prompt_id, innocent])
    await until(lambda: innocent not in proxy.app[GATEWAY].ledger)
    prompts = (await get(proxy, "/metrics"))["prompts"]
    assert (prompts["failed"], prompts["completed"]) == (1, 1)


@pytest.mark.long
@pytest.mark.parametrize("listens", [True, False])
async def test_who_waited_behind_it_is_innocent(
    proxy: TestClient, workers: Workers, fatal: Json, listens: bool
) -> None:
    """Prompts that wait at an instance which dies complete elsewhere, twice if need be."""
    one, two = workers
    async with listening(proxy) as listener:
        fields = {"client_id": listener.client_id} if listens else {}
        for _ in workers:
            await post(proxy, graph(WAIT_S), **fields)
        await until(lambda: one.started and two.started)
        prompt_id = await post(proxy, fatal, **fields)
        waiting = [await post(proxy, graph(), **fields) for _ in range(4)]
        await until(lambda: not (one.running and two.running))
        await comes_back(proxy, two if one.running else one)
        await until(lambda: not (one.running and two.running))
        await comes_back(proxy, one if not one.running else two)
        await prompt_error(proxy, prompt_id)
        await until(lambda: {*waiting} <= {*one.executed, *two.executed})
    assert [*one.started, *two.started].count(prompt_id) == 2


async def test_the_history_shows_it_until_it_is_deleted(
    proxy: TestClient, workers: Workers, fatal: Json
) -> None:
    """In the list and by its id, as if an instance had it; clear and delete reach it too."""
    first = await post(proxy, fatal, extra_data={"api_key_comfy_org": "secret", "note": 1})
    for worker in workers:
        await dies(worker)
    await prompt_error(proxy, first)
    for worker in workers:
        await comes_back(proxy, worker)
    innocent = await post(proxy, graph())
    await ended(proxy, innocent)
    history = await get(proxy, "/history")
    assert list(history) == [first, innocent]
    assert history[first]["prompt"][3] == {"note": 1}
    assert list(await get(proxy, "/history?max_items=1")) == [innocent]
    async with proxy.post("/history", json={"delete": [first]}) as answer:
        assert answer.status == 200
    assert await get(proxy, f"/history/{first}") == {}
    assert list(await get(proxy, "/history")) == [innocent]


async def test_a_newer_prompt_of_its_id_takes_its_place(
    proxy: TestClient, workers: Workers, fatal: Json
) -> None:
    """A client that mends its graph and posts it under the same id is not told the old error."""
    await post(proxy, fatal, prompt_id="same")
    for worker in workers:
        await dies(worker)
    await prompt_error(proxy, "same")
    for worker in workers:
        await comes_back(proxy, worker)
    await post(proxy, graph(), prompt_id="same")
    entries = await ended(proxy, "same")
    assert entries["same"]["status"]["status_str"] == "success"
    assert await get(proxy, "/history") == entries


async def test_what_an_outage_killed_once_is_no_suspect_for_ever(
    proxy: TestClient, workers: Workers
) -> None:
    """An innocent prompt that ran when somebody else's fault ended its process completes."""
    one, two = workers
    prompt_id = await post(proxy, graph(WAIT_S))
    await until(lambda: one.started or two.started)
    ran, other = (one, two) if one.started else (two, one)
    await ran.kill()
    entries = await ended(proxy, prompt_id)
    assert entries[prompt_id]["status"]["status_str"] == "success"
    assert other.executed == [prompt_id]
