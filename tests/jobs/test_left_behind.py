"""A job goes on elsewhere: nobody can speak with its instance, which has its prompt still."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from forwarder import forwarding
from job_client import JobClient, until, write_templates
from past_the_proxy import interrupt, keep_busy

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


async def waiting(worker: EmbeddedWorker) -> list[str]:
    async with aiohttp.ClientSession(worker.url) as session, session.get("/queue") as answer:
        return [row[1] for row in (await answer.json())["queue_pending"]]


async def test_what_a_job_has_left_behind_is_deleted_there_before_anything_else_is_sent(
    workers: Pair, start_proxy: Start, settings: dict[str, Any]
) -> None:
    """Else it would run there as well, for nobody."""
    async with forwarding(workers[0].url) as (network,):
        await keep_busy(workers[0])
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
        await keep_busy(workers[0])
        jobs = JobClient(await start_proxy(network.url, **settings))
        [one] = jobs.http.app[CLUSTER].instances
        job_id = await jobs.submit()
        await until(lambda: len(workers[0].submitted) == 2)
        network.doomed = lambda piece: True
        network.forget()
        workers[0].drop_connections()
        await until(lambda: one.draining)
        network.doomed = lambda piece: False
        await interrupt(workers[0])
        assert (await jobs.ends(job_id))["status"] == "completed"
        assert not one.draining
