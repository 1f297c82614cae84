"""Why work went where it went and what its models cost: in log, job status and figures."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from job_client import JobClient, until
from loguru import logger

from comfy_proxy.cluster.planning.decision import Decision
from comfy_proxy.embedded.simulated_gpu import SimulatedModels
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import CLUSTER

Json = dict[str, Any]
Pair = tuple[EmbeddedWorker, EmbeddedWorker]
MODELS = SimulatedModels(files={"a.safetensors": 100, "b.safetensors": 100}, load_s=0.2)
_seeds = itertools.count(1)


def nodes(model: str, seed: int = 0) -> Json:
    sampler = {"model": ["1", 0], "steps": 1, "width": 8, "height": 8, "batch_size": 1}
    return {
        "1": {"class_type": "SimulatedModelLoader", "inputs": {"ckpt_name": model}},
        "2": {
            "class_type": "SimulatedSampler",
            "inputs": sampler | {"seed": seed or next(_seeds), "seconds": 0.01},
        },
    }


@pytest.fixture
async def gpus(tmp_path: Path) -> AsyncIterator[Pair]:
    """Two instances into which one of two models fits."""
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(
                EmbeddedWorker(base_directory=tmp_path / name, name=name, simulated_models=MODELS)
            )
            for name in ("one", "two")
        ]
        yield one, two


@pytest.fixture
async def proxy(gpus: Pair, start_proxy: Callable[..., Any], tmp_path: Path) -> TestClient:
    """With a workflow ``painted`` of the one model."""
    graph = {**nodes("a.safetensors"), "3": {"class_type": "LoadImage", "inputs": {"image": "x"}}}
    bind = {"3.image": "$picture", "2.seed": "$seed"}
    variant = {"name": "only", "graph": graph, "bind": bind, "output": ["2", 0]}
    parameters = {"seed": {"type": "integer", "default": 1}}
    document = {"parameters": parameters, "variants": [variant]}
    directory = tmp_path / "workflows"
    directory.mkdir()
    (directory / "painted.json").write_text(json.dumps(document))
    return await start_proxy(*gpus, workflow_directory=directory)


async def run(proxy: TestClient, model: str) -> None:
    """One prompt of a client, to its end."""
    graph = {**nodes(model), "9": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}}
    async with proxy.post("/prompt", json={"prompt": graph, "client_id": "me"}) as answer:
        assert answer.status == 200, await answer.text()
        prompt_id = (await answer.json())["prompt_id"]
    lines = proxy.app[CLUSTER].planner.lines.values()
    while True:
        async with proxy.get(f"/history/{prompt_id}") as answer:
            if await answer.json() and not any(map(len, lines)):
                return


async def figures(proxy: TestClient, path: str = "/metrics") -> Any:
    async with proxy.get(path) as answer:
        return await answer.json()


@pytest.mark.long
async def test_loads_of_clients_prompts(proxy: TestClient, gpus: Pair) -> None:
    """Each model is loaded once at an instance of its own; all that follows is spared it."""
    for model in ("a.safetensors", "b.safetensors") * 3:
        await run(proxy, model)
    assert sorted(gpus[0].loads + gpus[1].loads) == ["a.safetensors", "b.safetensors"]
    for shown, gpu in zip((await figures(proxy))["instances"], gpus, strict=True):
        assert shown["models_loaded"] == gpu.loads
        loads = shown["model_loads"]
        assert (loads["paid"], loads["avoided"]) == (1, 2)
        assert loads["seconds"] > 0
    health = await figures(proxy, "/health")
    told = [one["models_loaded"] for one in health["comfyui_instances"]["instances"]]
    assert told == [gpu.loads for gpu in gpus]


async def test_why_a_prompt_went_there_is_one_line_at_debug(proxy: TestClient) -> None:
    """With the instance and the prompt's id; the costs of it all as soon as they are known."""
    lines: list[Any] = []
    sink = logger.add(lambda line: lines.append(line.record), level="DEBUG")
    await run(proxy, "a.safetensors")
    await run(proxy, "a.safetensors")
    logger.remove(sink)
    told = [one for one in lines if " goes to " in one["message"]]
    first, second = (one["message"].partition(": ")[2] for one in told)
    assert first == "fewest prompts (nothing is known of its cost)"
    assert second.startswith("its models are loaded there (waits 0 s, loads 0 s, runs ")
    for one in told:
        host, prompt_id = one["extra"]["instance"], one["extra"]["prompt_id"]
        assert one["message"].startswith(f"prompt {prompt_id} goes to {host}: ")


@pytest.mark.long
async def test_the_line_costs_nothing_while_it_is_not_read(
    proxy: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No text is made, and nothing is compared again for it."""
    made: list[object] = []
    monkeypatch.setattr(Decision, "__str__", lambda decision: made.append(decision) or "")
    monkeypatch.setattr("comfy_proxy.gateway.prompts.needs.decide", made.append)
    logger.add(lambda line: None, level="INFO")
    await run(proxy, "a.safetensors")
    await run(proxy, "a.safetensors")
    assert made == []


async def test_the_placement_of_a_job(proxy: TestClient, gpus: Pair) -> None:
    """In its status, and why it is there in a line with its prompt's id."""
    lines: list[str] = []
    logger.add(lambda line: lines.append(line.record["message"]), level="DEBUG")
    jobs = JobClient(proxy)
    ends = []
    for seed in (1, 2):
        ends.append(await jobs.ends(await jobs.submit("painted", seed=seed)))
        await until(lambda: not any(map(len, proxy.app[CLUSTER].planner.lines.values())))
    first, second = (end["placement"] for end in ends)
    hosts = [gpu.host for gpu in gpus]
    assert first["instance"] == second["instance"] in hosts
    assert first["reason"] == "fewest prompts (nothing is known of its cost)"
    assert first["alternatives"] == []
    assert second["reason"] == "its models are loaded there"
    assert (second["wait_seconds"], second["load_seconds"]) == (0, 0)
    (other,) = second["alternatives"]
    assert {other["instance"], second["instance"]} == set(hosts)
    assert other["finish_seconds"] > second["run_seconds"] > 0
    assert any(f"job {ends[1]['job_id']}: a prompt at" in line and "are loaded" in line
               for line in lines)  # fmt: skip
