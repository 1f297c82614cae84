"""A user's own workflows as endpoints, and workflows that not every instance can run."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from job_client import JobClient, form, noise, open_picture, until

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import CLUSTER

Start = Callable[..., Awaitable[JobClient]]


@pytest.fixture
async def worker_with(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[EmbeddedWorker]]]:
    """``await worker_with(missing_nodes=…)`` → a running worker."""
    async with AsyncExitStack() as stack:
        made: list[EmbeddedWorker] = []

        async def start(**options: Any) -> EmbeddedWorker:
            name = f"w{len(made)}"
            worker = EmbeddedWorker(
                base_directory=tmp_path / name, name=name, test_nodes=True, **options
            )
            made.append(await stack.enter_async_context(worker))
            return worker

        yield start


def knows_all(jobs: JobClient) -> bool:
    """The proxy has learnt what every instance can do."""
    cluster = jobs.http.app[CLUSTER]
    return all(cluster.capabilities.known(instance) for instance in cluster.instances)


async def test_a_template_is_an_endpoint(jobs: JobClient) -> None:
    """A file of the workflow directory answers under its name, with its own parameters."""
    picture = noise()
    async with jobs.http.post("/api/workflows/timed", data=form(picture, seconds=0)) as answer:
        body = await answer.json()
    assert (answer.status, body["type"], body["seconds"], body["salt"]) == (202, "timed", 0.0, 0)
    made = open_picture(await jobs.result(body["job_id"]))
    assert made.tobytes() == open_picture(picture).tobytes()


async def test_shipped_workflows_are_endpoints_too(jobs: JobClient) -> None:
    """``/api/workflows/upscale-image`` is ``/api/upscale-image``."""
    assert open_picture(await jobs.result(await jobs.submit("upscale-image"))).size == (32, 24)


async def test_an_unknown_workflow_says_which_there_are(jobs: JobClient) -> None:
    """404 before the body is read, with the names."""
    async with jobs.http.post("/api/workflows/none", data=form()) as answer:
        body = await answer.json()
    assert (answer.status, body["code"]) == (404, "unknown_workflow")
    assert "timed" in body["error"]
    assert "upscale-image" in body["error"]


async def test_parameters_of_a_template_are_checked(jobs: JobClient) -> None:
    """A parameter that the template does not have, or a value out of range, is 400."""
    for fields in ({"scale": 2}, {"seconds": -1}):
        async with jobs.http.post("/api/workflows/timed", data=form(**fields)) as answer:
            body = await answer.json()
        assert (answer.status, body["details"]["field"]) == (400, *fields)


async def test_an_instance_that_lacks_nodes_is_not_used(
    worker_with: Any, start_jobs: Start
) -> None:
    """While another one can run it, an instance without the nodes gets no such job."""
    able, unable = await worker_with(), await worker_with(missing_nodes=["TimedPass"])
    jobs = await start_jobs(able, unable)
    ids = [await jobs.submit() for _ in range(8)]
    ends = [await jobs.ends(job_id) for job_id in ids]
    assert {(end["status"], end["comfyui_instance"]) for end in ends} == {("completed", able.host)}
    assert {end["attempts"] for end in ends} == {1}
    assert unable.submitted == unable.uploads == []
    other = await jobs.submit("upscale-image")
    assert (await jobs.ends(other))["status"] == "completed"


async def test_a_prompt_is_not_moved_where_it_cannot_run(
    worker_with: Any, start_jobs: Start
) -> None:
    """However idle the other instance is, waiting prompts stay where they can run."""
    able, unable = await worker_with(), await worker_with(missing_nodes=["TimedPass"])
    jobs = await start_jobs(able, unable)
    ids = [await jobs.submit(seconds=0.1) for _ in range(3)]
    ends = [await jobs.ends(job_id) for job_id in ids]
    assert {end["status"] for end in ends} == {"completed"}
    assert len(able.submitted) == len(able.started) == 3
    assert unable.submitted == unable.uploads == []


async def test_503_at_once_if_it_is_known(worker_with: Any, start_jobs: Start) -> None:
    """Known of every instance that it cannot: refused at once, told what is missing where."""
    workers = [await worker_with(missing_nodes=["TimedPass"]) for _ in range(2)]
    jobs = await start_jobs(*workers)
    await until(lambda: knows_all(jobs))
    async with jobs.http.post("/api/workflows/timed", data=form()) as answer:
        body = await answer.json()
        assert (answer.status, body["code"]) == (503, "workflow_unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
    assert set(body["details"]["missing"]) == {"instance 1", "instance 2"}
    assert body["details"]["missing"]["instance 1"] == {"only": ["TimedPass"]}
    assert list(jobs.service.manager) == []


async def test_if_it_is_not_known_the_job_fails(worker_with: Any, start_jobs: Start) -> None:
    """Accepted while nothing is known; then the job fails and says what is missing where."""
    workers = [await worker_with(missing_nodes=["TimedPass"]) for _ in range(2)]
    for worker in workers:
        worker.faults.hang = ("/object_info",)
    jobs = await start_jobs(*workers)
    job_id = await jobs.submit()
    for worker in workers:
        worker.faults.clear()
    end = await jobs.ends(job_id)
    assert (end["status"], end["error"]["code"]) == ("failed", "workflow_unavailable")
    assert (end["attempts"], end["started_time"]) == (0, None)
    for worker in workers:
        assert f"{worker.host} lacks TimedPass" in end["error"]["message"]


async def test_one_unknown_instance_is_hope(worker_with: Any, start_jobs: Start) -> None:
    """With one instance down, a workflow that the other lacks waits: that one may have it."""
    unable, able = await worker_with(missing_nodes=["TimedPass"]), await worker_with()
    await able.kill()
    jobs = await start_jobs(unable, able)
    job_id = await jobs.submit()
    await until(lambda: jobs.http.app[CLUSTER].capabilities.known(jobs.instance(unable)))
    assert (await jobs.status(job_id))["status"] == "pending"
    await able.restart()
    assert (await jobs.ends(job_id))["comfyui_instance"] == able.host


async def test_a_model_file_that_is_missing_is_named(
    worker_with: Any, start_jobs: Start, templates: Path
) -> None:
    """A class that is there but has no model to choose is missing something too."""
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
        "2": {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "x.pth"}},
        "3": {
            "class_type": "ImageUpscaleWithModel",
            "inputs": {"upscale_model": ["2", 0], "image": ["1", 0]},
        },
    }
    bind = {"1.image": "$picture", "2.model_name": {"choose": ["*"]}}
    variant = {"name": "model", "graph": graph, "bind": bind, "output": ["3", 0]}
    (templates / "modelled.json").write_text(json.dumps({"variants": [variant]}))
    jobs = await start_jobs(await worker_with())
    await until(lambda: knows_all(jobs))
    async with jobs.http.post("/api/workflows/modelled", data=form()) as answer:
        body = await answer.json()
    assert (answer.status, body["code"]) == (503, "workflow_unavailable")
    assert "lacks a model file for UpscaleModelLoader.model_name" in body["error"]
