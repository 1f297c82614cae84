"""An instance hangs under jobs of ours: those that wait there, and the one that runs, go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from job_client import JobClient, noise, open_picture, until

from comfy_proxy.embedded.process import WorkerProcess
from comfy_proxy.keys import CLUSTER

pytestmark = pytest.mark.long

Start = Callable[..., Awaitable[JobClient]]
HUNG_S = 0.5


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[list[WorkerProcess]]:
    """Two processes; whichever was stopped goes on before it is ended."""
    async with AsyncExitStack() as stack:
        made = [
            WorkerProcess(base_directory=tmp_path / name, name=name, test_nodes=True)
            for name in ("one", "two")
        ]
        await asyncio.gather(*(stack.enter_async_context(one) for one in made))
        try:
            yield made
        finally:
            for one in made:
                if one.running:
                    one.thaw()


async def test_jobs_at_an_instance_that_hangs_complete_elsewhere(
    pair: list[WorkerProcess], start_jobs: Start
) -> None:
    """All six with their own pictures; the one that ran there begins once more."""
    jobs = await start_jobs(
        *(one.url for one in pair),
        hang_timeout_s=HUNG_S,
        health_check_interval_s=0.1,
        health_failure_threshold=1,
    )
    instances = jobs.http.app[CLUSTER].instances
    await until(lambda: all(one.check_ok for one in instances))
    pictures = [noise() for _ in range(6)]
    ids = [await jobs.submit(picture=picture, seconds=0.5) for picture in pictures]
    await until(lambda: any(one.running for one in instances[0].placements))
    pair[0].freeze()
    ends = [await jobs.ends(job_id) for job_id in ids]
    assert {end["status"] for end in ends} == {"completed"}
    assert max(end["attempts"] for end in ends) == 2
    for job_id, picture in zip(ids, pictures, strict=True):
        assert open_picture(await jobs.result(job_id)).tobytes() == open_picture(picture).tobytes()
    pair[0].thaw()
    await until(lambda: instances[0].healthy and not instances[0].draining)
    again = [await jobs.submit(seconds=0.02) for _ in range(6)]
    assert {(await jobs.ends(one))["comfyui_instance"] for one in again} == {
        one.host for one in instances
    }
