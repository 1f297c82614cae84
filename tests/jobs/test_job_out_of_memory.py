"""A job that runs out of memory has one more try with the memory freed, where there is more."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from job_client import JobClient, until

from comfy_proxy.embedded.simulated_gpu import SimulatedModels
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import CLUSTER

Start = Callable[..., Awaitable[JobClient]]
TEMPLATE: dict[str, Any] = {
    "parameters": {"seed": {"type": "integer", "default": 0}},
    "scale": 1,
    "variants": [
        {
            "name": "only",
            "graph": {
                "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
                "2": {
                    "class_type": "SimulatedModelLoader",
                    "inputs": {"ckpt_name": "a.safetensors"},
                },
                "3": {
                    "class_type": "SimulatedSampler",
                    "inputs": {
                        "model": ["2", 0],
                        "seed": 0,
                        "steps": 1,
                        "width": 16,
                        "height": 12,
                        "batch_size": 1,
                        "seconds": 0.0,
                    },
                },
            },
            "bind": {"1.image": "$picture", "3.seed": "$seed"},
            "output": ["3", 0],
        }
    ],
}


class Rig:
    """Workers with so much memory each, in this order, and a proxy before them."""

    def __init__(self, workers: list[EmbeddedWorker], jobs: JobClient) -> None:
        self.workers = workers
        self.jobs = jobs

    def loaded(self, number: int) -> list[str]:
        """What the planner takes to be loaded there."""
        cluster = self.jobs.http.app[CLUSTER]
        line = cluster.planner.lines[self.jobs.instance(self.workers[number])]
        return line.loaded.names()

    async def all_checked(self) -> None:
        instances = self.jobs.http.app[CLUSTER].instances
        await until(lambda: all(one.vram_total for one in instances))


@pytest.fixture
async def rig(
    tmp_path: Path, start_jobs: Start, templates: Path
) -> AsyncIterator[Callable[..., Awaitable[Rig]]]:
    """``await rig(100, 200)`` → two workers with so many bytes, a proxy before them."""
    (templates / "hungry.json").write_text(json.dumps(TEMPLATE))
    async with AsyncExitStack() as stack:

        async def make(*sizes: int) -> Rig:
            workers = [
                await stack.enter_async_context(
                    EmbeddedWorker(
                        base_directory=tmp_path / f"gpu{number}",
                        name=f"gpu{number}",
                        simulated_models=SimulatedModels(
                            files={"a.safetensors": 50}, vram=size, load_s=0.0
                        ),
                    )
                )
                for number, size in enumerate(sizes)
            ]
            made = Rig(workers, await start_jobs(*workers))
            await made.all_checked()
            return made

        yield make


async def test_once_more_with_the_memory_freed(rig: Callable[..., Awaitable[Rig]]) -> None:
    """At the same instance if there is no other; it is no loss of that instance."""
    alone = await rig(100)
    (worker,) = alone.workers
    worker.faults.oom_until_free = True
    end = await alone.jobs.ends(await alone.jobs.submit("hungry"))
    assert end["status"] == "completed"
    assert not worker.faults.oom_until_free
    assert len(worker.started) == len(set(worker.started)) == 2
    assert alone.jobs.instance(worker).healthy


async def test_where_there_is_more(rig: Callable[..., Awaitable[Rig]]) -> None:
    """The second try goes to an instance with more memory, not to one with as much."""
    several = await rig(100, 100, 200)
    small, alike, large = several.workers
    small.faults.oom_until_free = alike.faults.oom_until_free = True
    end = await several.jobs.ends(await several.jobs.submit("hungry"))
    assert (end["status"], end["comfyui_instance"]) == ("completed", large.host)
    assert [len(one.started) for one in several.workers] == [1, 0, 1]


async def test_only_where_it_can_be_used(rig: Callable[..., Awaitable[Rig]]) -> None:
    """A larger one that is away is not waited for."""
    several = await rig(100, 200)
    small, large = several.workers
    await large.kill()
    await until(lambda: not several.jobs.instance(large).healthy)
    small.faults.oom_until_free = True
    end = await several.jobs.ends(await several.jobs.submit("hungry"))
    assert (end["status"], end["comfyui_instance"]) == ("completed", small.host)


async def test_it_fails_when_memory_is_wanting_again(
    rig: Callable[..., Awaitable[Rig]],
) -> None:
    """Its error says at which node, that it was tried twice, and nothing of the instance's files.
    An instance that frees nothing is no reason not to try."""
    alone = await rig(100)
    (worker,) = alone.workers
    worker.faults.oom_until_free = True
    worker.faults.answers = {"/free": "500"}
    end = await alone.jobs.ends(await alone.jobs.submit("hungry"))
    assert end["status"] == "failed"
    assert end["error"]["code"] == "out_of_memory"
    assert end["error"]["message"] == (
        "SimulatedSampler (node 3): the GPU ran out of memory (Allocation on device). It was the"
        " second try, after memory had been freed."
    )
    assert len(worker.started) == 2
    assert alone.jobs.instance(worker).healthy


async def test_nothing_is_loaded_then(rig: Callable[..., Awaitable[Rig]]) -> None:
    """After it ran out of memory, and after a client has freed it, as far as the planner knows."""
    alone = await rig(100)
    (worker,) = alone.workers
    await alone.jobs.ends(await alone.jobs.submit("hungry", seed=1))
    assert alone.loaded(0) == ["a.safetensors"]
    async with alone.jobs.http.post("/free", json={"unload_models": False}) as answer:
        assert answer.status == 200
    assert alone.loaded(0) == ["a.safetensors"]
    async with alone.jobs.http.post("/free", json={"free_memory": True}) as answer:
        assert answer.status == 200
    assert alone.loaded(0) == []
    await alone.jobs.ends(await alone.jobs.submit("hungry", seed=2))
    assert alone.loaded(0) == ["a.safetensors"]
    worker.faults.oom_until_free = True
    worker.faults.answers = {"/free": "500"}
    await alone.jobs.ends(await alone.jobs.submit("hungry", seed=3))
    assert alone.loaded(0) == []
