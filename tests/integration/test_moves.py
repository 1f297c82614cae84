"""The end of a burst: a prompt that waits at a busy instance goes to the idle one (trap 24)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from job_client import JobClient, noise, open_picture, until

from comfy_proxy.embedded.worker import EmbeddedWorker

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Awaitable[JobClient]]


async def burst(jobs: JobClient, workers: Pair) -> tuple[list[str], EmbeddedWorker, EmbeddedWorker]:
    """One instance runs a long prompt with another one waiting behind it, the other a long one."""
    ids = [await jobs.submit(picture=noise(), seconds=60) for _ in range(3)]
    await until(lambda: sum(len(worker.submitted) for worker in workers) == 3)
    busy, idle = sorted(workers, key=lambda worker: -len(worker.submitted))
    await until(lambda: busy.started and idle.started)
    await until(lambda: all(job.prompt_id for job in jobs.service.manager))
    return ids, busy, idle


async def test_a_waiting_prompt_moves_and_runs_once(jobs: JobClient, workers: Pair) -> None:
    """It runs at the instance that ran empty, is gone from the other, and is one attempt."""
    ids, busy, idle = await burst(jobs, workers)
    manager = jobs.service.manager
    running = {worker.started[0] for worker in workers}
    (waiting,) = [job_id for job_id in ids if manager.get_job(job_id).prompt_id not in running]
    (ended,) = [job_id for job_id in ids if manager.get_job(job_id).prompt_id == idle.started[0]]
    await jobs.delete(ended)
    await until(lambda: len(idle.started) == 2)
    job = manager.get_job(waiting)
    await until(lambda: job.executing_since is not None)
    assert (job.instance, job.prompt_id, job.attempts) == (idle.host, idle.started[1], 1)
    assert len(busy.started) == 1
    assert busy._life is not None
    assert busy._life.instance.queue.remaining() == 1
    for job_id in ids:
        if job_id != ended:
            await jobs.delete(job_id)


@pytest.mark.long
async def test_a_burst_ends_well(jobs: JobClient, workers: Pair) -> None:
    """Uneven jobs, moved or not: each runs once and has the result of its own picture."""
    pictures = [noise() for _ in range(13)]
    ids = [
        await jobs.submit(picture=picture, seconds=0.01 + 0.03 * (number % 4))
        for number, picture in enumerate(pictures)
    ]
    for job_id, picture in zip(ids, pictures, strict=True):
        end = await jobs.ends(job_id)
        assert (end["status"], end["attempts"]) == ("completed", 1)
        assert open_picture(await jobs.result(job_id)).tobytes() == open_picture(picture).tobytes()
    assert sum(len(worker.started) for worker in workers) == 13


async def test_a_move_to_an_instance_that_just_died(jobs: JobClient, workers: Pair) -> None:
    """The idle instance dies as it is offered: the job stays or returns, and is not lost."""
    ids, busy, idle = await burst(jobs, workers)
    manager = jobs.service.manager
    idle.faults.answers = {"/system_stats": "500"}
    (ended,) = [job_id for job_id in ids if manager.get_job(job_id).prompt_id == idle.started[0]]
    await jobs.delete(ended)
    left = [job_id for job_id in ids if job_id != ended]
    (running,) = [job_id for job_id in left if manager.get_job(job_id).prompt_id == busy.started[0]]
    await jobs.delete(running)
    await until(lambda: len(busy.started) == 2)
    (last,) = [job_id for job_id in left if job_id != running]
    assert (await jobs.reaches(last, "processing"))["comfyui_instance"] == busy.host
    await jobs.delete(last)
