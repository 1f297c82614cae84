"""Jobs while instances join and leave."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from job_client import JobClient, until

from comfy_proxy.cluster import membership
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import CLUSTER

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Awaitable[JobClient]]


@pytest.fixture
async def third(tmp_path: Path) -> AsyncIterator[EmbeddedWorker]:
    worker = EmbeddedWorker(base_directory=tmp_path / "three", name="three", test_nodes=True)
    async with worker:
        yield worker


async def change(jobs: JobClient, method: str, path: str, *statuses: int, **body: str) -> None:
    async with jobs.http.request(method, f"/api/instances{path}", json=body) as answer:
        assert answer.status in (statuses or (200,)), await answer.text()


async def test_by_force_a_job_begins_anew_elsewhere(jobs: JobClient, workers: Pair) -> None:
    """It counts as no failure of the job; where it was it is interrupted."""
    one, two = workers
    await change(jobs, "POST", "/1/drain")
    running, waiting = await jobs.submit(seconds=60), await jobs.submit(seconds=60)
    await until(lambda: two.started)
    await until(lambda: len(two.submitted) == 2)
    await change(jobs, "POST", "/1/resume")
    await change(jobs, "DELETE", "/2?force=true", 204)
    await until(lambda: one.started)
    (run,) = [run for job, run in jobs.service.processor.runs.items() if job.id == running]
    assert (run._tries.failures, run._tries.hangs) == (0, 0)
    await until(lambda: two.queue_remaining == 0)
    await until(lambda: len(one.submitted) == 2)
    for job_id in (running, waiting):
        await jobs.delete(job_id)


async def test_one_that_joins_takes_jobs_from_the_door(
    jobs: JobClient, workers: Pair, third: EmbeddedWorker
) -> None:
    """And there may be three more of them at once."""
    ids = [await jobs.submit(seconds=60) for _ in range(8)]
    await until(lambda: all(len(worker.submitted) == 3 for worker in workers))
    await change(jobs, "POST", "", 201, url=third.host)
    await until(lambda: len(third.submitted) >= 2)
    assert (await jobs.get("/health"))["job_processing"]["max_concurrent_jobs"] == 9
    for job_id in ids:
        await jobs.delete(job_id)


async def test_jobs_leave_nothing_of_a_removed_instance(
    jobs: JobClient,
    workers: Pair,
    third: EmbeddedWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that has done jobs, and has one under way when it leaves, is gone from memory."""
    monkeypatch.setattr(membership, "RESULTS_S", 0.0)
    await change(jobs, "POST", "", 201, url=third.host)
    for name in ("1", "2"):
        await change(jobs, "POST", f"/{name}/drain")
    assert (await jobs.ends(await jobs.submit()))["comfyui_instance"] == third.host
    slow = await jobs.submit(seconds=0.2)
    await until(lambda: len(third.started) == 2)
    for name in ("1", "2"):
        await change(jobs, "POST", f"/{name}/resume")
    gone = weakref.ref(jobs.http.app[CLUSTER].instances[2])
    await change(jobs, "DELETE", "/3?wait=20", 204)
    assert (await jobs.ends(slow))["comfyui_instance"] == third.host
    await until(lambda: third.open_sockets == 0)
    await until(lambda: gc.collect() >= 0 and gone() is None)
