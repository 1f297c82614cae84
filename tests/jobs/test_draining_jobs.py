"""Jobs at an instance that an operator takes out of use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from job_client import JobClient, until

from comfy_proxy.embedded.worker import EmbeddedWorker

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Awaitable[JobClient]]


async def drain(jobs: JobClient, name: str) -> None:
    async with jobs.http.post(f"/api/instances/{name}/drain") as answer:
        assert answer.status == 200


async def test_jobs_that_wait_there_leave_before_those_at_the_door_get_a_place(
    jobs: JobClient, workers: Pair
) -> None:
    """Though the other instance is full; the one that runs ends where it is, and each runs once."""
    one, two = (jobs.instance(worker) for worker in workers)
    ids = [await jobs.submit(seconds=60) for _ in range(6)]
    await until(lambda: all(len(worker.submitted) == 3 for worker in workers))
    await until(lambda: all(worker.started for worker in workers))
    at_the_door = await jobs.submit()
    await drain(jobs, "1")
    await until(lambda: one.active_jobs == 1)
    assert two.active_jobs == 5
    statuses = [await jobs.status(job_id) for job_id in ids]
    (running,) = [one_of for one_of in statuses if one_of["comfyui_instance"] == one.host]
    await jobs.delete(running["job_id"])
    await until(lambda: not one.load)
    for job_id in ids:
        if job_id != running["job_id"]:
            assert (await jobs.status(job_id))["comfyui_instance"] == two.host
            await jobs.delete(job_id)
    assert (await jobs.ends(at_the_door))["comfyui_instance"] == two.host
    assert len(workers[0].started) == 1


async def test_a_job_waits_while_all_are_drained(jobs: JobClient, workers: Pair) -> None:
    """And runs as soon as one of them is resumed."""
    for name in ("1", "2"):
        await drain(jobs, name)
    job_id = await jobs.submit()
    assert (await jobs.status(job_id))["status"] == "pending"
    async with jobs.http.post("/api/instances/2/resume"):
        pass
    assert (await jobs.ends(job_id))["comfyui_instance"] == workers[1].host
