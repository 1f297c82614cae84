"""Instances that join and leave while the proxy runs: what becomes of work, sockets and names."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from membership_front import add, instances, remove
from prompts_front import (
    COMPLETE,
    LONG_S,
    Listener,
    ended,
    get,
    graph,
    interrupt,
    listening,
    post,
    until,
)

from comfy_proxy.cluster import membership
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.instance_settings import parse_instance
from comfy_proxy.keys import CLUSTER, GATEWAY

Workers = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Any]
Http = TestClient


@pytest.fixture
async def third(tmp_path: Path) -> AsyncIterator[EmbeddedWorker]:
    worker = EmbeddedWorker(base_directory=tmp_path / "three", name="three", test_nodes=True)
    async with worker:
        yield worker


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody fetches results any more: an instance leaves as soon as it is empty."""
    monkeypatch.setattr(membership, "RESULTS_S", 0.0)


async def drain(http: Http, name: str, action: str = "drain") -> None:
    async with http.post(f"/api/instances/{name}/{action}") as answer:
        assert answer.status == 200


def is_told_all(listener: Listener, prompt_id: str) -> bool:
    return listener.kinds(prompt_id) == COMPLETE and listener.over(prompt_id)


async def test_one_that_is_added_gets_work_and_is_heard_on_open_sockets(
    proxy: Http, workers: Workers, third: EmbeddedWorker
) -> None:
    """Clients that were connected before hear of their prompts there, and what waited elsewhere
    moves there."""
    async with listening(proxy) as one, listening(proxy) as two:
        blockers = [await post(proxy, graph(LONG_S)) for _ in workers]
        await until(lambda: all(worker.started for worker in workers))
        waiting = {
            await post(proxy, graph(0.01), client_id=listener.client_id): listener
            for listener in (one, two, one, two)
        }
        told = await add(proxy, third, name="fresh")
        assert (told["id"], told["name"], told["status"]) == ("3", "fresh", "healthy")
        await until(lambda: all(is_told_all(at, prompt) for prompt, at in waiting.items()))
        assert sorted(third.started) == sorted(waiting)
        new = await post(proxy, graph(), client_id=one.client_id)
        await until(lambda: is_told_all(one, new))
        (picture,) = one.outputs(new)
        assert picture["subfolder"] == "@3"
        async with proxy.get("/view", params=picture) as answer:
            assert answer.status == 200
        await interrupt(proxy, *blockers)
        await until(lambda: one.sums()[-1] == two.sums()[-1] == 0)


async def test_one_that_does_not_answer_joins_all_the_same(
    proxy: Http, third: EmbeddedWorker
) -> None:
    """As an instance of the configuration does at the start; it gets work once it answers."""
    await third.kill()
    assert (await add(proxy, third))["status"] == "unhealthy"
    await third.restart()
    for name in ("1", "2"):
        await drain(proxy, name)
    instances(proxy)[2].breaker.sign_of_life()
    assert await proxy.app[CLUSTER].health_checker.check(instances(proxy)[2])
    await ended(proxy, prompt_id := await post(proxy))
    assert third.started == [prompt_id]


@pytest.mark.long
async def test_one_is_removed_under_load(
    proxy: Http, workers: Workers, third: EmbeddedWorker
) -> None:
    """No prompt is lost, no request fails, and what ran there ends there; its results can be
    fetched for RESULTS_S more."""
    await add(proxy, third)
    done, going = [], True

    async def client(listener: Listener) -> None:
        while going:
            prompt_id = await post(proxy, graph(0.02), client_id=listener.client_id)
            await until(partial(is_told_all, listener, prompt_id))
            for picture in listener.outputs(prompt_id):
                async with proxy.get("/view", params=picture) as answer:
                    assert answer.status == 200, picture
            done.append(prompt_id)

    async with listening(proxy) as one, listening(proxy) as two:
        clients = [asyncio.create_task(client(at)) for at in (one, two, one, two)]
        await until(lambda: third.started)
        running = await post(proxy, graph(0.3), client_id=one.client_id)
        state = await remove(proxy, "3", status=202)
        assert (state["draining"], state["leaving"]) == (True, True)
        await remove(proxy, "3", wait="20")
        before = len(third.submitted)
        left = len(done)
        await until(lambda: len(done) > left + 8)
        going = False
        await asyncio.gather(*clients)
        await until(lambda: is_told_all(one, running))
    assert len(third.submitted) == before
    started = [*workers[0].started, *workers[1].started, *third.started]
    assert sorted(started) == sorted([*done, running])
    assert [one.id for one in instances(proxy)] == ["1", "2"]
    await until(lambda: third.open_sockets == 0)


async def test_what_waits_leaves_and_what_runs_ends_first(
    proxy: Http, workers: Workers, at_once: None
) -> None:
    """Then the sum of the queues is that of the instances that are left."""
    async with listening(proxy) as listener:
        blockers = [await post(proxy, graph(LONG_S)) for _ in workers]
        await until(lambda: all(worker.started for worker in workers))
        waiting = [await post(proxy, graph(0.01)) for _ in range(4)]
        assert not (await remove(proxy, "2", status=202))["empty"]
        await until(lambda: len(workers[0].submitted) == 5)
        (running,) = workers[1].started
        leaving = asyncio.create_task(remove(proxy, "2", wait="20"))
        await interrupt(proxy, running)
        await leaving
        await interrupt(proxy, *blockers)
        await ended(proxy, *waiting)
        await until(lambda: listener.sums()[-1] == 0)
    assert workers[1].started == [running]


async def test_one_that_is_resumed_stays(proxy: Http, workers: Workers) -> None:
    """A request that waited for its removal is answered with its state."""
    blockers = [await post(proxy, graph(LONG_S)) for _ in workers]
    await until(lambda: all(worker.started for worker in workers))
    waiting = asyncio.create_task(remove(proxy, "2", status=202, wait="20"))
    await until(lambda: instances(proxy)[1].leaving)
    await drain(proxy, "2", "resume")
    state = await waiting
    assert (state["draining"], state["leaving"]) == (False, False)
    await interrupt(proxy, *blockers)
    assert len(instances(proxy)) == 2


async def test_by_force_what_runs_there_begins_anew_elsewhere(
    proxy: Http, workers: Workers
) -> None:
    """As if its process had died, except that no prompt counts as the cause; it interrupts what it
    ran."""
    one, two = workers
    async with listening(proxy) as listener:
        await drain(proxy, "1")
        prompts = [
            await post(proxy, graph(LONG_S), client_id=listener.client_id),
            await post(proxy, graph(0.01), client_id=listener.client_id),
        ]
        await until(lambda: two.started == prompts[:1])
        await drain(proxy, "1", "resume")
        await remove(proxy, "2", force="true")
        assert [one.id for one in instances(proxy)] == ["1"]
        await until(lambda: prompts[0] in one.started)
        found = proxy.app[GATEWAY].ledger.find(prompts[0])
        assert found is not None
        assert (found.tries.failures, found.tries.hangs) == (0, 0)
        await until(lambda: two.queue_remaining == 0)
        await interrupt(proxy, prompts[0])
        await until(lambda: is_told_all(listener, prompts[1]))
        await until(lambda: listener.sums()[-1] == 0)


async def test_by_force_while_it_is_sent_a_prompt(proxy: Http, workers: Workers) -> None:
    """It takes the prompt after it has left: the client has that answer, and the prompt runs
    elsewhere."""
    one, two = workers
    await drain(proxy, "1")
    two.faults.hang = ("/prompt",)
    posting = asyncio.create_task(post(proxy, graph(LONG_S)))
    await until(lambda: proxy.app[GATEWAY].ledger.submitting())
    await drain(proxy, "1", "resume")
    await remove(proxy, "2", force="true")
    two.faults.clear()
    prompt_id = await posting
    await until(lambda: one.started == [prompt_id])
    await until(lambda: two.queue_remaining == 0)
    await interrupt(proxy, prompt_id)
    assert await ended(proxy, prompt_id)


async def test_by_force_though_it_does_not_answer(proxy: Http, workers: Workers) -> None:
    """The removal waits for no answer of it."""
    await drain(proxy, "1")
    prompt_id = await post(proxy, graph(0.2))
    await until(lambda: workers[1].started)
    await drain(proxy, "1", "resume")
    await workers[1].kill()
    await remove(proxy, "2", force="true")
    await ended(proxy, prompt_id)
    assert workers[0].started == [prompt_id]


async def test_the_last_one_stays(proxy: Http) -> None:
    """409, also by force, and while the only other instance is about to leave."""
    await remove(proxy, "1")
    for query in ({}, {"force": "true"}):
        body = await remove(proxy, "2", status=409, **query)
        assert (body["code"], "last instance" in body["error"]) == ("instance_conflict", True)
    await ended(proxy, await post(proxy))


async def test_a_proxy_in_front_of_one_keeps_that_one(start_proxy: Start, workers: Workers) -> None:
    """Such a proxy passes everything to its instance as it comes: 409 says so, and that a restart
    is needed."""
    http = await start_proxy(workers[0])
    body = await add(http, workers[1], status=409)
    assert "started with one instance" in body["error"]
    await remove(http, "1", status=409)


async def test_one_is_left_and_two_again(
    proxy: Http, workers: Workers, third: EmbeddedWorker
) -> None:
    """Prompts at the instance that is left are told, moved and shown as before."""
    await remove(proxy, "2")
    async with listening(proxy) as listener:
        prompt_id = await post(proxy, client_id=listener.client_id)
        await until(partial(is_told_all, listener, prompt_id))
        assert listener.outputs(prompt_id)[0]["subfolder"] == "@1"
        await add(proxy, third)
        blocker = await post(proxy, graph(LONG_S))
        await until(lambda: blocker in [*workers[0].started, *third.started])
        more = [await post(proxy, client_id=listener.client_id) for _ in range(3)]
        await until(lambda: all(is_told_all(listener, one) for one in more))
        await interrupt(proxy, blocker)


async def test_an_address_or_a_name_is_there_once(
    start_proxy: Start, workers: Workers, third: EmbeddedWorker
) -> None:
    """A second instance with it is 409, which names the field; however the address is spelt."""
    http = await start_proxy(*workers, instance_names=("left", "right"))
    for url in (workers[0].host, f"http://localhost:{workers[0].port}/"):
        body = await add(http, url, status=409)
        assert body["details"]["field"] == "url"
    body = await add(http, third, status=409, name="right")
    assert body["details"]["field"] == "name"
    await add(http, third, name="middle")
    await add(http, third, status=409)


async def test_nobody_waits_for_one_that_has_never_answered(
    proxy: Http, third: EmbeddedWorker
) -> None:
    """It hangs from the moment on in which it joins: what goes to all goes to the others."""
    third.faults.hang = ("/",)
    newcomer = proxy.app[CLUSTER].membership.add(parse_instance(third.url))
    assert (newcomer.check_ok, newcomer.healthy) == (None, False)
    for path in ("/queue", "/history", "/object_info", "/system_stats"):
        await get(proxy, path)
    await ended(proxy, await post(proxy))
    assert third.submitted == []


async def test_the_proxy_itself_is_no_instance(proxy: Http) -> None:
    """What is sent to one comes back for ever: 409, and one that is configured gets nothing."""
    url = str(proxy.make_url("/"))
    body = await add(proxy, url, status=409)
    assert body["details"]["field"] == "url"
    assert len(instances(proxy)) == 2
    cluster = proxy.app[CLUSTER]
    itself = cluster.membership.add(parse_instance(url))
    assert not await cluster.health_checker.check(itself)
    assert not itself.healthy
    itself.breaker.sign_of_life()
    assert not await cluster.health_checker.check(itself)
    await ended(proxy, await post(proxy))


@pytest.mark.long
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        ({"url": 8188}, "url"),
        ({"url": "ftp://gpu:8188"}, "url"),
        ({"url": "user:secret@gpu:8188"}, "url"),
        ({"url": "gpu:0"}, "url"),
        ({"url": "a" * 64 + ":8188"}, "url"),
        ({"url": "gpu..example:8188"}, "url"),
        ({"url": "gpu one:8188"}, "url"),
        ({"url": ".:8188"}, "url"),
        ({"url": "gpu\0:8188"}, "url"),
        ({"url": "\ud800:8188"}, "url"),
        ({"url": "gpu:8188", "name": "3"}, "name"),
        ({"url": "gpu:8188", "name": "x" * 65}, "name"),
        ({"url": "gpu:8188", "name": ["x"]}, "name"),
        ({"url": "gpu:8188", "weight": 2}, "weight"),
        ([], None),
    ],
)
async def test_what_is_no_instance(proxy: Http, body: Any, field: str | None) -> None:
    """400, which names the field, and nothing has joined."""
    async with proxy.post("/api/instances", json=body) as answer:
        told = await answer.json()
        assert answer.status == 400
    assert told["details"].get("field") == field
    assert len(instances(proxy)) == 2


async def test_its_number_is_its_own(proxy: Http, workers: Workers, third: EmbeddedWorker) -> None:
    """An instance that comes back has its number of before, which no other one got meanwhile."""
    await remove(proxy, "2")
    assert (await add(proxy, third))["id"] == "3"
    assert (await add(proxy, workers[1]))["id"] == "2"
    assert [one.id for one in instances(proxy)] == ["1", "3", "2"]


async def test_what_it_alone_had_is_unknown(proxy: Http, at_once: None) -> None:
    """404 for its files and ``{}`` for its prompts; the prompts of other instances are shown."""
    async with listening(proxy) as listener:
        kept, gone = [], []
        while not (kept and gone):
            prompt_id = await post(proxy, client_id=listener.client_id)
            await until(partial(is_told_all, listener, prompt_id))
            (picture,) = listener.outputs(prompt_id)
            (gone if picture["subfolder"] == "@2" else kept).append((prompt_id, picture))
        await remove(proxy, "2")
        assert await get(proxy, f"/history/{gone[0][0]}") == {}
        assert set(await get(proxy, "/history")) == {one for one, _ in kept}
        async with proxy.get("/view", params=gone[0][1]) as answer:
            assert (answer.status, (await answer.json())["code"]) == (404, "not_found")
        async with proxy.get("/view", params=kept[0][1]) as answer:
            assert answer.status == 200
        named = graph()
        named["1"] = {"class_type": "LoadImage", "inputs": {"image": "@2/x.png [output]"}}
        async with proxy.post("/prompt", json={"prompt": named}) as answer:
            assert answer.status == 400


async def test_what_all_of_them_have_is_shown_on(
    start_proxy: Start, tmp_path: Path, at_once: None
) -> None:
    """If the instances share their directories its entries of the history are shown, and the
    pictures."""
    pair = [
        EmbeddedWorker(base_directory=tmp_path / "both", name=name, test_nodes=True)
        for name in ("one", "two")
    ]
    async with pair[0], pair[1]:
        http = await start_proxy(*pair, shared_storage=frozenset({"input", "output", "temp"}))
        await drain(http, "1")
        async with listening(http) as listener:
            prompt_id = await post(http, client_id=listener.client_id)
            await until(partial(is_told_all, listener, prompt_id))
            await until(lambda: http.app[GATEWAY].views.keeper.entries.find(prompt_id))
            await drain(http, "1", "resume")
            before = await get(http, f"/history/{prompt_id}")
            await remove(http, "2")
            assert await get(http, f"/history/{prompt_id}") == before
            assert set(await get(http, "/history")) == {prompt_id}
            (picture,) = listener.outputs(prompt_id)
            async with http.get("/view", params=picture) as answer:
                assert answer.status == 200
    assert pair[1].started == [prompt_id]


async def test_its_figures_vanish_and_the_sums_stay(proxy: Http, workers: Workers) -> None:
    """In ``/metrics``, as JSON and for Prometheus, and in ``/health``."""
    await drain(proxy, "1")
    await ended(proxy, await post(proxy))
    host = workers[1].host
    await until(lambda: not instances(proxy)[1].load)
    await drain(proxy, "1", "resume")
    before = (await get(proxy, "/metrics"))["prompts"]
    await remove(proxy, "2", wait="20")
    after = await get(proxy, "/metrics")
    assert after["prompts"]["forwarded"] == before["forwarded"] == 1
    assert [one["id"] for one in after["instances"]] == ["1"]
    async with proxy.get("/metrics", headers={"Accept": "text/plain; version=0.0.4"}) as answer:
        assert host not in await answer.text()
    assert (await get(proxy, "/health"))["comfyui_instances"]["total"] == 1
    assert (await get(proxy, "/api/instances"))["instances"][0]["id"] == "1"


@pytest.mark.long
async def test_nothing_of_it_is_left_behind(
    proxy: Http, workers: Workers, third: EmbeddedWorker, at_once: None
) -> None:
    """No entry in any part, no task, session or socket: whatever it did before, its object is
    freed."""
    async with listening(proxy) as listener:
        tasks = {task.get_name() for task in asyncio.all_tasks()}
        await add(proxy, third)
        for name in ("1", "2"):
            await drain(proxy, name)
        for client_id in (listener.client_id, "nobody listens"):
            await ended(proxy, await post(proxy, client_id=client_id))
        paths = ("/queue", "/history", "/object_info", "/api/users", "/features", "/models")
        for path in (*paths, "/embeddings", "/system_stats", "/api/jobs", "/metrics"):
            async with proxy.get(path) as answer:
                await answer.read()
        for name in ("1", "2"):
            await drain(proxy, name, "resume")
        gone = weakref.ref(instances(proxy)[2])
        await remove(proxy, "3", wait="20")
        connections = proxy.app[CLUSTER].connections
        await until(lambda: len(connections._sessions) == 2)
        await until(lambda: third.open_sockets == 0)
        await until(lambda: gc.collect() >= 0 and gone() is None)
        left = {task.get_name() for task in asyncio.all_tasks()} - tasks
        assert not [name for name in left if third.host in name]
