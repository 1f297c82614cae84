"""A prompt that ended just before its instance was started again: its client learns how."""

from __future__ import annotations

import pytest
from prompts_front import (
    COMPLETE,
    LONG_S,
    Http,
    Json,
    Listener,
    Workers,
    ended,
    get,
    graph,
    instance_of,
    interrupt,
    listening,
    post,
    recover,
    until,
)

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.gateway.prompts import lost_results
from comfy_proxy.keys import GATEWAY

PAID = {"extra_data": {"api_key_comfy_org": "key"}}


def worker_of(workers: Workers, prompt_id: str) -> EmbeddedWorker:
    return next(one for one in workers if prompt_id in one.started)


def unread(workers: Workers) -> None:
    """What ends from now on is told by frames, and cannot be read."""
    for worker in workers:
        worker.faults.hang = ("/history",)


async def starts_again(
    http: Http, workers: Workers, prompt_id: str | None = None, *, keep_files: bool = False
) -> None:
    """The process of who ran the prompt (None: of both) ends, another one takes its place, and the
    proxy knows what it has lost."""
    for worker in workers:
        if prompt_id is None or prompt_id in worker.started:
            worker.refuse_connections()
            worker.drop_connections()  # else its kill waits for what hangs
    for worker in workers:
        worker.faults.clear()
    for worker in workers:
        if prompt_id is None or prompt_id in worker.started:
            await comes_back(http, worker, keep_files=keep_files)


async def comes_back(http: Http, worker: EmbeddedWorker, *, keep_files: bool) -> None:
    await worker.restart(keep_files=keep_files)
    await recover(http, worker)
    keeper, instance = http.app[GATEWAY].views.keeper, instance_of(http, worker)
    await until(lambda: not keeper.wanted.at(instance) and not keeper._doubtful(instance))


async def over(listener: Listener, prompt_id: str) -> None:
    await until(lambda: listener.over(prompt_id))


async def kept(http: Http, prompt_id: str) -> None:
    """Its success is on record, and its entry is kept; its client has not asked."""
    await until(lambda: http.app[GATEWAY].views.kept.find(prompt_id))


async def shown_once(http: Http, prompt_id: str) -> Json:
    """Its entry, the same by its id and in the list, and in no queue."""
    entry: Json
    [entry] = (await get(http, f"/history/{prompt_id}")).values()
    assert await get(http, "/history") == {prompt_id: entry}
    assert await get(http, "/queue") == {"queue_running": [], "queue_pending": []}
    return entry


def started(workers: Workers) -> list[str]:
    return [*workers[0].started, *workers[1].started]


def end_of(entry: Json) -> tuple[str, Json]:
    assert (entry["status"]["status_str"], entry["status"]["completed"]) == ("error", False)
    assert entry["outputs"] == {}
    [[kind, told]] = entry["status"]["messages"]
    return kind, told


# --- its client has heard the end --------------------------------------------------------


async def test_a_success_that_was_told_fails_with_the_reason(proxy: Http, workers: Workers) -> None:
    """Once in every view, until a client deletes it; its client hears no second end, and it does
    not run again."""
    unread(workers)
    async with listening(proxy) as listener:
        prompt_id = await post(proxy, client_id=listener.client_id)
        await over(listener, prompt_id)
        await starts_again(proxy, workers, prompt_id)
        entry = await shown_once(proxy, prompt_id)
        kind, told = end_of(entry)
        assert (kind, told["exception_type"]) == ("execution_error", "ResultsLostError")
        assert "started again before its results were read" in told["exception_message"]
        assert entry["prompt"][2]["3"]["class_type"] == "SaveImage"
        assert listener.kinds(prompt_id) == COMPLETE
    assert started(workers) == [prompt_id]
    async with proxy.post("/history", json={"delete": [prompt_id]}):
        pass
    assert await get(proxy, f"/history/{prompt_id}") == await get(proxy, "/history") == {}


async def test_a_success_that_was_told_is_one_if_its_files_are_there(
    proxy: Http, workers: Workers
) -> None:
    """What its frames told is its entry: a client that asks for its picture then gets it."""
    unread(workers)
    async with listening(proxy) as listener:
        posted = graph()
        prompt_id = await post(proxy, posted, client_id=listener.client_id, **PAID)
        await over(listener, prompt_id)
        await starts_again(proxy, workers, prompt_id, keep_files=True)
        entry = (await get(proxy, f"/history/{prompt_id}"))[prompt_id]
        assert await get(proxy, "/history") == {prompt_id: entry}
        assert entry["status"]["status_str"] == "success"
        assert entry["outputs"]["3"]["images"] == listener.outputs(prompt_id)
        _, name, asked, extra, _ = entry["prompt"]
        assert (name, asked, extra["client_id"]) == (prompt_id, posted, listener.client_id)
        assert "api_key_comfy_org" not in extra
        async with proxy.get("/view", params=listener.outputs(prompt_id)[0]) as answer:
            assert answer.status == 200
    assert started(workers) == [prompt_id]


async def test_previews_are_no_part_of_what_is_there_still(proxy: Http, workers: Workers) -> None:
    """ComfyUI deletes them when it starts; the picture that was saved is shown."""
    unread(workers)
    both = graph()
    both["4"] = {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}
    only = graph()
    only["3"]["class_type"] = "PreviewImage"
    del only["3"]["inputs"]["filename_prefix"]
    async with listening(proxy) as listener:
        prompt_ids = [await post(proxy, one, client_id=listener.client_id) for one in (both, only)]
        for prompt_id in prompt_ids:
            await over(listener, prompt_id)
        await starts_again(proxy, workers, keep_files=True)
    saved, previewed = [
        (await get(proxy, f"/history/{prompt_id}"))[prompt_id] for prompt_id in prompt_ids
    ]
    assert saved["status"]["status_str"] == "success"
    assert list(saved["outputs"]) == ["3"]
    assert end_of(previewed)[1]["exception_type"] == "ResultsLostError"


async def test_an_error_that_was_told_keeps_its_reason(proxy: Http, workers: Workers) -> None:
    unread(workers)
    failing = graph()
    failing["3"]["inputs"]["images"] = ["4", 0]
    failing["4"] = {"class_type": "FailNode", "inputs": {"image": ["2", 0], "salt": 1}}
    async with listening(proxy) as listener:
        prompt_id = await post(proxy, failing, client_id=listener.client_id)
        await over(listener, prompt_id)
        [heard] = [one for one in listener.frames if one["type"] == "execution_error"]
        await starts_again(proxy, workers, prompt_id)
        kind, told = end_of(await shown_once(proxy, prompt_id))
        assert (kind, told["node_id"], told["node_type"]) == ("execution_error", "4", "FailNode")
        assert heard["data"]["exception_message"].strip() in told["exception_message"]


async def test_an_interruption_that_was_told_is_one(proxy: Http, workers: Workers) -> None:
    unread(workers)
    async with listening(proxy) as listener:
        prompt_id = await post(proxy, graph(LONG_S), client_id=listener.client_id)
        await until(lambda: "executing" in listener.kinds(prompt_id))
        await interrupt(proxy, prompt_id)
        await over(listener, prompt_id)
        await starts_again(proxy, workers, prompt_id)
        assert end_of(await shown_once(proxy, prompt_id))[0] == "execution_interrupted"


async def test_an_outage_of_the_network_alone_loses_nothing(proxy: Http, workers: Workers) -> None:
    """It is in trouble, and has the entry still."""
    unread(workers)
    async with listening(proxy) as listener:
        prompt_id = await post(proxy, client_id=listener.client_id)
        await over(listener, prompt_id)
        worker = worker_of(workers, prompt_id)
        worker.drop_connections()
        worker.faults.clear()
        await recover(proxy, worker)
        await kept(proxy, prompt_id)
        assert (await ended(proxy, prompt_id))[prompt_id]["status"]["status_str"] == "success"


# --- nobody was told ---------------------------------------------------------------------


async def test_a_success_that_nobody_was_told_runs_once_more(proxy: Http, workers: Workers) -> None:
    """Its client only polls, and has not asked when the files are gone: it gets its picture."""
    prompt_id = await post(proxy, client_id="polls")
    await kept(proxy, prompt_id)
    await starts_again(proxy, workers, prompt_id)
    entry = (await ended(proxy, prompt_id))[prompt_id]
    assert entry["status"]["status_str"] == "success"
    [picture] = entry["outputs"]["3"]["images"]
    async with proxy.get("/view", params=picture) as answer:
        assert answer.status == 200
    assert started(workers) == [prompt_id, prompt_id]
    assert await shown_once(proxy, prompt_id) == entry


async def test_one_whose_files_are_there_still_does_not_run_again(
    proxy: Http, workers: Workers
) -> None:
    """The history alone is gone: it was kept in the moment in which the end was learnt."""
    prompt_id = await post(proxy)
    await kept(proxy, prompt_id)
    await starts_again(proxy, workers, prompt_id, keep_files=True)
    entry = (await get(proxy, f"/history/{prompt_id}"))[prompt_id]
    assert entry["status"]["status_str"] == "success"
    assert started(workers) == [prompt_id]


@pytest.mark.parametrize("path", ["/history/{}", "/history"])
async def test_who_was_shown_it_has_had_it(proxy: Http, workers: Workers, path: str) -> None:
    """What was shown does not run again; the views of jobs are in ``views/test_lost_ends.py``."""
    prompt_id = await post(proxy)
    await kept(proxy, prompt_id)
    assert prompt_id in str(await get(proxy, path.format(prompt_id)))
    await starts_again(proxy, workers, prompt_id)
    assert await get(proxy, f"/history/{prompt_id}") == {}
    assert started(workers) == [prompt_id]


async def test_it_runs_once_more_and_no_more(proxy: Http, workers: Workers) -> None:
    """Lost a second time it has failed."""
    prompt_id = await post(proxy)
    await kept(proxy, prompt_id)
    await starts_again(proxy, workers, prompt_id)
    await kept(proxy, prompt_id)
    await starts_again(proxy, workers)
    assert end_of(await shown_once(proxy, prompt_id))[0] == "execution_error"
    assert started(workers) == [prompt_id, prompt_id]


async def test_what_was_paid_for_does_not_run_again(proxy: Http, workers: Workers) -> None:
    prompt_id = await post(proxy, **PAID)
    await kept(proxy, prompt_id)
    await starts_again(proxy, workers, prompt_id)
    entry = await shown_once(proxy, prompt_id)
    assert end_of(entry)[1]["exception_type"] == "ResultsLostError"
    assert "api_key_comfy_org" not in str(entry)


async def test_what_nobody_asks_for_does_not_run_again(
    proxy: Http, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that polls would have asked within AGAIN_S."""
    monkeypatch.setattr(lost_results, "AGAIN_S", -1.0)
    prompt_id = await post(proxy)
    await kept(proxy, prompt_id)
    await starts_again(proxy, workers, prompt_id)
    assert end_of(await shown_once(proxy, prompt_id))[0] == "execution_error"


@pytest.mark.long
@pytest.mark.parametrize("bound", ["MAX_UNTOLD", "MAX_UNTOLD_BYTES"])
async def test_what_is_remembered_is_bounded(
    proxy: Http, workers: Workers, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    """The one that ended first counts as told."""
    monkeypatch.setattr(lost_results, bound, 1)
    first = await post(proxy, graph(prefix="first"))
    await kept(proxy, first)
    second = await post(proxy, graph(prefix="second"))
    await kept(proxy, second)
    await starts_again(proxy, workers)
    await ended(proxy, second)
    assert await get(proxy, f"/history/{first}") == {}
    assert sorted(started(workers)) == sorted([first, second, second])
