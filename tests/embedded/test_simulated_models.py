"""Simulated models cost what models of a GPU cost: time to load, memory, and the memory's end."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from worker_client import Client

from comfy_proxy.embedded.process import WorkerProcess
from comfy_proxy.embedded.simulated_gpu import SimulatedModels
from comfy_proxy.embedded.worker import EmbeddedWorker

Json = dict[str, Any]
LOAD_S = 0.2
MODELS = SimulatedModels(
    files={"a.safetensors": 100, "b.safetensors": 100, "small.safetensors": 50},
    vram=150,
    load_s=LOAD_S,
)


def graph(model: str, seed: int, seconds: float = 0.0) -> Json:
    sampler = {"model": ["1", 0], "steps": 2, "width": 8, "height": 8, "batch_size": 1}
    return {
        "1": {
            "class_type": "SimulatedModelLoader",
            "inputs": {"ckpt_name": f"{model}.safetensors"},
        },
        "2": {
            "class_type": "SimulatedSampler",
            "inputs": sampler | {"seed": seed, "seconds": seconds},
        },
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }


def cached(entry: Json) -> list[str]:
    """The nodes that a history entry says came from the node cache."""
    messages = dict(entry["status"]["messages"])
    return messages["execution_cached"]["nodes"]


def names(loads: list[str]) -> list[str]:
    return [name.removesuffix(".safetensors") for name in loads]


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[EmbeddedWorker]:
    """A running worker with three models of which at most two fit."""
    async with EmbeddedWorker(base_directory=tmp_path, simulated_models=MODELS) as running:
        yield running


async def seconds_of(client: Client, model: str, seed: int, seconds: float = 0.0) -> float:
    begun = time.monotonic()
    entry = await client.run(graph(model, seed, seconds))
    assert entry["status"]["status_str"] == "success"
    return time.monotonic() - begun


async def test_loading_takes_its_time_once(worker: EmbeddedWorker, client: Client) -> None:
    """The largest takes `load_s`, half the bytes half of it; a loaded one nothing."""
    assert await seconds_of(client, "a", 1) >= LOAD_S
    assert LOAD_S / 2 <= await seconds_of(client, "small", 2) < LOAD_S
    assert await seconds_of(client, "a", 3) < LOAD_S / 2
    assert names(worker.loads) == ["a", "small"]


async def test_the_least_recently_used_makes_room(worker: EmbeddedWorker, client: Client) -> None:
    """`a` is used after `small`, so it is `small` that goes; both go for one more that is large."""
    for seed, model in enumerate(("small", "a", "small", "a", "b", "small", "b")):
        await client.run(graph(model, seed))
    assert names(worker.loads) == ["small", "a", "b", "small"]


async def test_the_node_cache_tells_as_ever(worker: EmbeddedWorker, client: Client) -> None:
    """The loader is cached right after a prompt with the same model; later it runs at no cost."""
    assert cached(await client.run(graph("a", 1))) == []
    assert cached(await client.run(graph("a", 2))) == ["1"]
    assert cached(await client.run(graph("small", 3))) == []
    assert cached(await client.run(graph("a", 4))) == []
    assert names(worker.loads) == ["a", "small"]


async def test_a_sampler_needs_its_model_loaded(worker: EmbeddedWorker, client: Client) -> None:
    """Its loader came from the node cache, but the model was unloaded in between."""
    await client.run(graph("a", 1))
    async with client.session.post("/free", json={"unload_models": True}):
        pass
    assert cached(await client.run(graph("a", 2))) == ["1"]
    assert names(worker.loads) == ["a", "a"]


@pytest.mark.parametrize("asked", ["unload_models", "free_memory"])
async def test_free_unloads(asked: str, worker: EmbeddedWorker, client: Client) -> None:
    """At once while nothing runs, which the free memory shows."""
    await client.run(graph("a", 1))
    devices = (await client.get("/system_stats"))["devices"]
    assert (devices[0]["vram_total"], devices[0]["vram_free"]) == (150, 50)
    async with client.session.post("/free", json={asked: True}):
        pass
    assert (await client.get("/system_stats"))["devices"][0]["vram_free"] == 150


async def test_free_lets_a_running_prompt_end(worker: EmbeddedWorker, client: Client) -> None:
    """Its model is unloaded after it."""
    first = await client.submit(graph("a", 1, seconds=0.2))
    await client.event("progress", value=1)
    async with client.session.post("/free", json={"unload_models": True}):
        pass
    await client.event("executing", node=None, prompt_id=first)
    await client.run(graph("a", 2))
    assert names(worker.loads) == ["a", "a"]


async def test_an_interrupted_load_loads_nothing(worker: EmbeddedWorker, client: Client) -> None:
    """An interrupt ends it at once."""
    await client.submit(graph("a", 1))
    await client.event("executing", node="1")
    async with client.session.post("/interrupt"):
        await client.event("execution_interrupted", node_id="1")
    assert worker.loads == []
    await client.run(graph("a", 2))
    assert names(worker.loads) == ["a"]


async def test_a_restart_forgets_what_was_loaded(worker: EmbeddedWorker, client: Client) -> None:
    """As a process that begins anew."""
    await client.run(graph("a", 1))
    await worker.restart()
    again = await Client(worker.url).connect()
    await again.run(graph("a", 2))
    await again.close()
    assert names(worker.loads) == ["a", "a"]


async def test_out_of_memory_until_free(worker: EmbeddedWorker, client: Client) -> None:
    """The error is that of a real ComfyUI, and everything is unloaded."""
    worker.faults.oom_until_free = True
    for seed in (1, 2):
        entry = await client.run(graph("a", seed))
        event, error = entry["status"]["messages"][-1]
        assert (event, error["node_type"]) == ("execution_error", "SimulatedSampler")
        assert error["exception_type"] == "torch.OutOfMemoryError"
        assert error["exception_message"].startswith("Allocation on device \nThis error means")
    async with client.session.post("/free", json={"unload_models": True}):
        pass
    assert await seconds_of(client, "a", 3) >= LOAD_S
    assert names(worker.loads) == ["a", "a", "a"]


async def test_pictures_tell_model_and_seed(worker: EmbeddedWorker, client: Client) -> None:
    """Equal ones are equal, others differ."""
    pictures = []
    for model, seed in (("a", 1), ("a", 2), ("small", 1), ("a", 1)):
        entry = await client.run(graph(model, seed))
        pictures.append(await client.read(entry["outputs"]["3"]["images"][0]))
    assert pictures[0] == pictures[3]
    assert len(set(pictures)) == 3


async def test_models_are_listed_as_files(worker: EmbeddedWorker, client: Client) -> None:
    """With sizes under /experiment, where configs and custom_nodes are no folders of models."""
    assert await client.get("/models/checkpoints") == list(MODELS.files)
    info = await client.get("/object_info/SimulatedModelLoader")
    declared = info["SimulatedModelLoader"]["input"]["required"]["ckpt_name"]
    assert declared[0] == list(MODELS.files)
    folders = await client.get("/experiment/models")
    assert {"checkpoints", "loras"} <= {one["name"] for one in folders}
    assert not {"configs", "custom_nodes"} & {one["name"] for one in folders}
    assert all(len(one["folders"]) == 1 for one in folders)
    files = await client.get("/api/experiment/models/checkpoints")
    assert {one["name"]: one["size"] for one in files} == MODELS.files
    assert all({"pathIndex", "modified", "created"} < one.keys() for one in files)
    assert await client.get("/experiment/models/loras") == []
    async with client.session.get("/experiment/models/absent") as answer:
        assert answer.status == 404


async def test_an_unknown_model_is_refused(worker: EmbeddedWorker, client: Client) -> None:
    """By the enum, before it runs."""
    async with client.session.post("/prompt", json={"prompt": graph("absent", 1)}) as answer:
        assert answer.status == 400
        errors = (await answer.json())["node_errors"]
    assert errors["1"]["errors"][0]["type"] == "value_not_in_list"


async def test_there_are_none_by_default(tmp_path: Path) -> None:
    """Not even with the test nodes."""
    async with EmbeddedWorker(base_directory=tmp_path, test_nodes=True) as plain:
        client = Client(plain.url)
        assert not [name for name in await client.get("/object_info") if "Simulated" in name]
        stats = await client.get("/system_stats")
        assert "simulated_loads" not in stats["system"]
        assert await client.get("/models/checkpoints") == []
        await client.close()


@pytest.mark.long
async def test_a_process_takes_them_as_options(tmp_path: Path) -> None:
    """`speed` divides the times, and /system_stats tells what was loaded."""
    models = SimulatedModels(files={"a.safetensors": 7}, vram=9, load_s=LOAD_S, speed=1000.0)
    async with WorkerProcess(base_directory=tmp_path, simulated_models=models) as process:
        client = await Client(process.url).connect()
        assert await seconds_of(client, "a", 1, seconds=2.0) < 2.0
        stats = await client.get("/system_stats")
        assert stats["system"]["simulated_loads"] == ["a.safetensors"]
        assert stats["devices"][0]["vram_total"] == 9
        await client.close()


@pytest.mark.parametrize("wrong", [{"files": {"a": 0}}, {"speed": 0.0}])
def test_what_cannot_be_simulated(wrong: Json) -> None:
    """A model without bytes would load in no time, a GPU without speed never."""
    with pytest.raises(ValueError, match="simulated"):
        SimulatedModels(**wrong)
