"""A job goes on elsewhere: nobody can speak with its instance, which has its prompt still."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from forwarder import forwarding
from job_client import JobClient, until, write_templates

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import CLUSTER

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Awaitable[Any]]


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The circuits stay closed: they are not what this is about."""
    folder = tmp_path / "templates"
    folder.mkdir()
    return {
        "workflow_directory": write_templates(folder),
        "health_check_interval_s": 0.1,
        "health_failure_threshold": 10_000,
    }


async def tell(worker: EmbeddedWorker, path: str, body: dict[str, Any]) -> None:
    async with (
        aiohttp.ClientSession(worker.url) as session,
        session.post(path, json=body) as answer,
    ):
        assert answer.status == 200


async def busy(worker: EmbeddedWorker) -> None:
    """Somebody's prompt runs there."""
    graph = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 1},
        },
        "2": {
            "class_type": "TimedPass",
            "inputs": {"image": ["1", 0], "seconds": 60, "salt": 1},
        },
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }
    await tell(worker, "/prompt", {"prompt": graph})
    await until(lambda: worker.started)


async def waiting(worker: EmbeddedWorker) -> list[str]:
    async with aiohttp.ClientSession(worker.url) as session, session.get("/queue") as answer:
        return [row[1] for row in (await answer.json())["queue_pending"]]


async def test_what_a_job_has_left_behind_is_deleted_there_before_anything_else_is_sent(
    workers: Pair, start_proxy: Start, settings: dict[str, Any]
) -> None:
    """Else it would run there as well, for nobody."""
    async with forwarding(workers[0].url) as (network,):
        await busy(workers[0])
        jobs = JobClient(await start_proxy(network.url, workers[1].url, **settings))
        one, two = jobs.http.app[CLUSTER].instances
        two.drained = True
        job_id = await jobs.submit()
        await until(lambda: len(workers[0].submitted) == 2)
        prompt_id = workers[0].submitted[1]
        two.drained = False
        network.doomed = lambda piece: True
        network.forget()
        workers[0].drop_connections()
        status = await jobs.ends(job_id)
        assert (status["status"], status["comfyui_instance"]) == ("completed", two.host)
        assert prompt_id in await waiting(workers[0])
        await until(lambda: one.draining)
        network.doomed = lambda piece: False
        await until(lambda: not one.draining)
        assert await waiting(workers[0]) == []
        assert prompt_id not in workers[0].started


async def test_a_single_instance_gets_work_again_once_it_has_let_go(
    workers: Pair, start_proxy: Start, settings: dict[str, Any]
) -> None:
    async with forwarding(workers[0].url) as (network,):
        await busy(workers[0])
        jobs = JobClient(await start_proxy(network.url, **settings))
        [one] = jobs.http.app[CLUSTER].instances
        job_id = await jobs.submit()
        await until(lambda: len(workers[0].submitted) == 2)
        network.doomed = lambda piece: True
        network.forget()
        workers[0].drop_connections()
        await until(lambda: one.draining)
        network.doomed = lambda piece: False
        await tell(workers[0], "/interrupt", {})
        assert (await jobs.ends(job_id))["status"] == "completed"
        assert not one.draining
