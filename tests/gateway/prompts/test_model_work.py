"""Work with models through the proxy: each is loaded once, and everything else is as ComfyUI's."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from prompts_front import Json, ended, get, listening, post, recover, until

from comfy_proxy.embedded.simulated_gpu import SimulatedModels
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import CLUSTER

Http = TestClient[web.Request, web.Application]
MODELS = SimulatedModels(files={"a.safetensors": 100, "b.safetensors": 100}, load_s=0.3)
RUN_S = 0.02
_seeds = itertools.count(1)


def graph(model: str, seconds: float = RUN_S) -> Json:
    """Takes ``seconds`` once its model is loaded; never cached."""
    sampler = {"model": ["1", 0], "steps": 2, "width": 8, "height": 8, "batch_size": 1}
    loader = {"ckpt_name": f"{model}.safetensors"}
    return {
        "1": {"class_type": "SimulatedModelLoader", "inputs": loader},
        "2": {
            "class_type": "SimulatedSampler",
            "inputs": sampler | {"seed": next(_seeds), "seconds": seconds},
        },
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }


@pytest.fixture
async def gpus(tmp_path: Path) -> AsyncIterator[tuple[EmbeddedWorker, EmbeddedWorker]]:
    """Two instances with two models of which one fits."""
    async with AsyncExitStack() as stack:
        pair = [
            await stack.enter_async_context(
                EmbeddedWorker(base_directory=tmp_path / name, name=name, simulated_models=MODELS)
            )
            for name in ("one", "two")
        ]
        yield pair[0], pair[1]


Gpus = tuple[EmbeddedWorker, EmbeddedWorker]


@pytest.fixture
async def http(gpus: Gpus, start_proxy: Callable[..., Awaitable[Http]]) -> Http:
    """A proxy that has seen each model run cold and warm, and what is loaded is forgotten again."""
    http = await start_proxy(*gpus)
    for model in "aabb":
        await ended(http, await post(http, graph(model)))
    for gpu in gpus:
        async with http.session.post(f"{gpu.url}/free", json={"unload_models": True}):
            pass
        gpu.loads.clear()
    for line in http.app[CLUSTER].planner.lines.values():
        line.loaded.forget()
    return http


@pytest.fixture
async def one(gpus: Gpus, start_proxy: Callable[..., Awaitable[Http]]) -> Http:
    """A proxy whose second instance is away; the first one has run and loaded ``a`` last. Patience
    is longer than a busy machine takes to post a batch."""
    http = await start_proxy(*gpus, affinity_patience_s=60.0)
    await recover(http, gpus[1])
    gpus[1].refuse_connections()
    gpus[1].drop_connections()
    for model in "bbaa":
        await ended(http, await post(http, graph(model)))
    gpus[0].loads.clear()
    return http


def pending(worker: EmbeddedWorker) -> list[tuple[float, str]]:
    """Number and id of what waits there, in the order in which it will run."""
    life = worker._life
    assert life is not None
    entries = life.instance.queue.snapshot()["queue_pending"]
    return sorted((entry[0], entry[1]) for entry in entries)


async def crowd(http: Http, *models: str) -> dict[str, str]:
    """A prompt for each, of clients of their own, one after the other; id → its model."""
    posted = {}
    for number, model in enumerate(models):
        posted[await post(http, graph(model), client_id=f"client {number}")] = model
    return posted


@pytest.mark.long
async def test_two_models_in_turn_cost_a_load_each(gpus: Gpus, http: Http) -> None:
    """Each has an instance, and its prompts go there."""
    posted = await crowd(http, *"ab" * 10)
    await ended(http, *posted)
    assert sorted(name for gpu in gpus for name in gpu.loads) == ["a.safetensors", "b.safetensors"]
    for gpu in gpus:
        assert len({posted[one] for one in gpu.started if one in posted}) == 1


@pytest.mark.long
async def test_at_one_instance_a_batch_costs_a_load(gpus: Gpus, one: Http) -> None:
    """All of the model that is loaded, then all of the other one."""
    running = await post(one, graph("a", seconds=30), client_id="0")
    await until(lambda: gpus[0].started[-1] == running)
    posted = await crowd(one, *"ba" * 8)
    async with one.post("/interrupt", json={"prompt_id": running}) as answer:
        assert answer.status == 200
    await ended(one, *posted)
    assert gpus[0].loads == ["b.safetensors"]
    order = [posted[prompt_id] for prompt_id in gpus[0].started if prompt_id in posted]
    assert order == ["a"] * 8 + ["b"] * 8


@pytest.mark.long
async def test_a_place_between_others_is_a_number_between_theirs(gpus: Gpus, one: Http) -> None:
    """The answer tells it, the queue shows it, and ComfyUI runs it in that order."""
    running = await post(one, graph("a", seconds=0.5), client_id="0")
    await until(lambda: gpus[0].started[-1] == running)
    first = await answered(one, "a", "1")
    second = await answered(one, "b", "2")
    between = await answered(one, "a", "3")
    behind = await answered(one, "a", "4")
    assert first["number"] < between["number"] < behind["number"] < second["number"]
    ids = [answer["prompt_id"] for answer in (first, between, behind, second)]
    assert [prompt_id for _, prompt_id in pending(gpus[0])] == ids
    queue = await get(one, "/queue")
    shown = {entry[1]: entry[0] for entry in queue["queue_pending"]}
    assert shown == {answer["prompt_id"]: answer["number"] for answer in (
        first, second, between, behind,
    )}  # fmt: skip
    await ended(one, *ids)
    assert gpus[0].started[-4:] == ids


async def answered(http: Http, model: str, client: str, **fields: Any) -> Json:
    body = {"prompt": graph(model), "client_id": client, **fields}
    async with http.post("/prompt", json=body) as answer:
        assert answer.status == 200
        return dict(await answer.json())


@pytest.mark.long
async def test_front_and_number_are_obeyed(gpus: Gpus, one: Http) -> None:
    """Whatever is loaded; and nobody is put before one that waits with such a number."""
    running = await post(one, graph("a", seconds=0.5), client_id="0")
    await until(lambda: gpus[0].started[-1] == running)
    last = await answered(one, "b", "1", number=500)
    front = await answered(one, "b", "2", front=True)
    first = await answered(one, "b", "3", number=-1000)
    then = await answered(one, "a", "4")
    order = [answer["prompt_id"] for answer in (first, front, then, last)]
    assert (first["number"], last["number"]) == (-1000, 500)
    assert [prompt_id for _, prompt_id in pending(gpus[0])] == order
    await ended(one, *order)
    assert gpus[0].started[-4:] == order


@pytest.mark.long
async def test_a_clients_prompts_of_a_kind_keep_their_order(gpus: Gpus, one: Http) -> None:
    posted = [(await post(one, graph(model), client_id="me"), model) for model in "babbaab" * 2]
    await ended(one, *(prompt_id for prompt_id, _ in posted))
    for model in "ab":
        own = [prompt_id for prompt_id, which in posted if which == model]
        assert [prompt_id for prompt_id in gpus[0].started if prompt_id in own] == own


@pytest.mark.long
async def test_the_client_sees_comfyuis_contract(gpus: Gpus, http: Http) -> None:
    """One id, in the queue or the history at all times, every event once; wherever it runs."""
    async with listening(http) as listener:
        posted = [
            await post(http, graph(model, 0.05), client_id=listener.client_id)
            for model in "abbaabab"
        ]
        done: set[str] = set()
        while len(done) < len(posted):
            queue = await get(http, "/queue")
            listed = [one[1] for part in queue.values() for one in part]
            assert len(listed) == len(set(listed))
            history = await get(http, "/history")
            assert set(posted) <= {*listed, *history}
            done = {one for one in posted if one in history}
            await asyncio.sleep(0)
        await until(lambda: all(map(listener.over, posted)))
    for prompt_id in posted:
        kinds = listener.kinds(prompt_id)
        assert kinds.count("execution_start") == kinds.count("execution_success") == 1
    started = [one for gpu in gpus for one in gpu.started if one in posted]
    assert sorted(started) == sorted(posted)


@pytest.mark.long
async def test_what_cannot_run_is_refused_at_once(gpus: Gpus, one: Http) -> None:
    """By ComfyUI's own validation, however long the queue is."""
    running = await post(one, graph("a", seconds=0.3), client_id="0")
    await post(one, graph("b"), client_id="1")
    async with one.post("/prompt", json={"prompt": graph("absent")}) as answer:
        assert answer.status == 400
        errors = (await answer.json())["node_errors"]
    assert errors["1"]["errors"][0]["type"] == "value_not_in_list"
    assert running not in await get(one, f"/history/{running}")
