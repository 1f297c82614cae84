"""Clients' prompts at an instance that answers and runs nothing: they run elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from prompts_front import (
    LONG_S,
    Json,
    Workers,
    ended,
    get,
    graph,
    instance_of,
    interrupt,
    listening,
    post,
    recover,
    total,
    until,
)

from comfy_proxy.cluster import standstill
from comfy_proxy.keys import GATEWAY

Start = Callable[..., Any]
Http = TestClient[Any, Any]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found soon."""
    monkeypatch.setattr(standstill, "QUIET_S", 0.05)
    monkeypatch.setattr(standstill, "LEAST_S", 0.1)


@pytest.fixture
async def proxy(start_proxy: Start, workers: Workers) -> Http:
    return await start_proxy(*workers, hang_timeout_s=0.1)


@pytest.fixture
def fatal() -> Json:
    """A graph that ends the thread which takes it, where ``thread_dies_at`` says so."""
    prompt = graph()
    prompt["3"]["inputs"]["images"] = ["4", 0]
    prompt["4"] = {"class_type": "FailNode", "inputs": {"image": ["2", 0], "salt": 1}}
    return prompt


@pytest.mark.long
@pytest.mark.parametrize("listens", [True, False])
async def test_what_waits_there_runs_elsewhere_and_nothing_new_goes_there(
    proxy: Http, workers: Workers, listens: bool
) -> None:
    """Each once, under its id; the client is told each end once."""
    one, _ = workers
    one.faults.stands_still = True
    async with listening(proxy) as listener:
        fields = {"client_id": listener.client_id} if listens else {}
        prompt_ids = [await post(proxy, graph(0.01), **fields) for _ in range(6)]
        await ended(proxy, *prompt_ids)
        await until(lambda: instance_of(proxy, one).stands_still or not one.queue_remaining)
        total(workers, prompt_ids)
        if listens:
            await until(lambda: all(map(listener.over, prompt_ids)))
            assert all(
                listener.kinds(prompt_id).count("execution_success") == 1
                for prompt_id in prompt_ids
            )
    assert one.started == []
    await found(proxy, one)
    before = len(one.submitted)
    more = [await post(proxy, graph(0.01)) for _ in range(4)]
    await ended(proxy, *more)
    assert len(one.submitted) == before


async def found(proxy: Http, worker: Any) -> None:
    """The worker is known to stand still: if nothing is there that shows it, a prompt is put."""
    instance = instance_of(proxy, worker)
    if not instance.stands_still:
        async with proxy.session.post(f"{worker.url}/prompt", json={"prompt": graph()}) as answer:
            assert answer.status == 200
        await proxy.app[GATEWAY].cluster.learn_load(instance)
        await until(lambda: instance.stands_still)


@pytest.mark.long
async def test_a_long_prompt_with_others_behind_it_is_none(proxy: Http, workers: Workers) -> None:
    """Nobody listens, and it lasts for longer than an instance may stand still."""
    blockers = [await post(proxy, graph(LONG_S)) for _ in workers]
    await until(lambda: all(worker.started for worker in workers))
    waiting = [await post(proxy, graph(1.0)) for _ in range(2)]
    long = await post(proxy, graph(1.5))
    await interrupt(proxy, *blockers)
    await ended(proxy, *waiting, long)
    assert not any(instance_of(proxy, worker).stands_still for worker in workers)


@pytest.mark.long
async def test_it_is_used_again_after_a_restart(proxy: Http, workers: Workers) -> None:
    one, two = workers
    one.faults.stands_still = True
    await found(proxy, one)
    await one.restart()
    await recover(proxy, one)
    await until(lambda: not instance_of(proxy, one).stands_still)
    prompt_ids = [await post(proxy, graph(0.2)) for _ in range(4)]
    await ended(proxy, *prompt_ids)
    assert one.started
    assert two.started


async def test_it_is_used_again_when_it_is_resumed(proxy: Http, workers: Workers) -> None:
    """The operator and those who watch see why it was not."""
    one, _ = workers
    one.faults.stands_still = True
    await found(proxy, one)
    listed = (await get(proxy, "/api/instances"))["instances"]
    assert [view["stands_still"] for view in listed] == [True, False]
    text = await (await proxy.get("/metrics", headers={"Accept": "text/plain"})).text()
    assert f'comfy_proxy_instance_stands_still{{comfyui_instance="{one.host}"}} 1.0' in text
    one.faults.stands_still = False
    async with proxy.post("/api/instances/1/resume") as answer:
        assert (answer.status, (await answer.json())["stands_still"]) == (200, False)
    blockers = [await post(proxy, graph(LONG_S)) for _ in workers]
    await until(lambda: one.started and set(one.started) & set(blockers))
    await interrupt(proxy, *blockers)


async def test_it_is_used_again_when_it_runs_something(proxy: Http, workers: Workers) -> None:
    """While none could take them new prompts are refused with the reason."""
    one, two = workers
    one.faults.stands_still = two.faults.stands_still = True
    await found(proxy, one)
    await found(proxy, two)
    async with proxy.post("/prompt", json={"prompt": graph()}) as answer:
        assert answer.status == 503
        assert "stands still" in (await answer.json())["error"]
    async with proxy.get("/health/ready") as answer:
        assert answer.status == 503
    one.faults.stands_still = two.faults.stands_still = False
    await until(lambda: not any(instance_of(proxy, worker).stands_still for worker in workers))
    assert await ended(proxy, await post(proxy))


async def test_the_only_instance_is_told_to_stand_still(
    start_proxy: Start, workers: Workers
) -> None:
    """Clients' prompts pass there as without us: it is told, and so it is when it is back."""
    (one, _) = workers
    http = await start_proxy(one, hang_timeout_s=0.1, health_check_interval_s=0.05)
    one.faults.stands_still = True
    await post(http)
    await until(lambda: instance_of(http, one).stands_still)
    async with http.get("/health/ready") as answer:
        assert answer.status == 503
    await post(http)
    assert len((await get(http, "/queue"))["queue_pending"]) == 2
    await one.restart()
    await until(lambda: not instance_of(http, one).stands_still)
    await ended(http, await post(http))


@pytest.mark.long
async def test_zero_is_never(start_proxy: Start, workers: Workers) -> None:
    one, _ = workers
    http = await start_proxy(*workers, hang_timeout_s=0, health_check_interval_s=0.02)
    one.faults.stands_still = True
    prompt_ids = [await post(http, graph(0.3)) for _ in range(4)]
    await until(lambda: len(workers[1].executed) >= 2)
    assert not instance_of(http, one).stands_still
    one.faults.stands_still = False
    await ended(http, *prompt_ids)


# --- what the thread had in hand when it died ----------------------------------------------------


async def error_of(proxy: Http, prompt_id: str) -> str:
    entries = await ended(proxy, prompt_id)
    ((kind, event),) = entries[prompt_id]["status"]["messages"]
    assert kind == "execution_error"
    return str(event["exception_message"])


@pytest.mark.long
@pytest.mark.parametrize("listens", [True, False])
async def test_who_ended_it_has_one_more_try(
    proxy: Http, workers: Workers, fatal: Json, listens: bool
) -> None:
    """And no third; those that waited behind it are innocent and complete."""
    one, two = workers
    async with listening(proxy) as listener:
        fields = {"client_id": listener.client_id} if listens else {}
        blockers = [await post(proxy, graph(LONG_S), **fields) for _ in workers]
        await until(lambda: one.started and two.started)
        for worker in workers:
            worker.faults.thread_dies_at = "FailNode"
        prompt_id = await post(proxy, fatal, **fields)
        first = one if prompt_id in one.submitted else two
        other = two if first is one else one
        behind = [await post(proxy, graph(0.01), **fields) for _ in range(4)]
        await interrupt(proxy, *[each for each in blockers if each in first.started])
        await until(lambda: instance_of(proxy, first).stands_still)
        await until(lambda: prompt_id in other.submitted)
        late = await post(proxy, graph(0.01), **fields)
        await interrupt(proxy, *blockers)
        await until(lambda: instance_of(proxy, other).stands_still)
        assert "ended 2 times" in await error_of(proxy, prompt_id)
        if listens:
            await until(lambda: listener.over(prompt_id))
        for worker in workers:
            await worker.restart()
            await recover(proxy, worker)
        await ended(proxy, *behind, late)
    submitted = [*one.submitted, *two.submitted]
    assert submitted.count(prompt_id) == 2
    assert prompt_id not in {*one.started, *two.started}


async def test_one_that_was_alone_there_is_told_to_be_lost(
    proxy: Http, workers: Workers, fatal: Json
) -> None:
    """Nothing waits there that would show what has happened."""
    for worker in workers:
        worker.faults.thread_dies_at = "FailNode"
    async with listening(proxy) as listener:
        prompt_id = await post(proxy, fatal, client_id=listener.client_id)
        assert "neither in its queue nor in its history" in await error_of(proxy, prompt_id)
        await until(lambda: listener.over(prompt_id))
    assert [*workers[0].submitted, *workers[1].submitted] == [prompt_id]
