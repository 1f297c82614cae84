"""Instances die, come back, or are not there: no accepted job is lost, none is done twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from job_client import JobClient, form, kill, noise, open_picture, until

from comfy_proxy.cluster.retry_law import MAX_BREAKS
from comfy_proxy.embedded.worker import EmbeddedWorker

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Awaitable[JobClient]]


@pytest.mark.long
async def test_one_of_two_is_killed_under_twenty_jobs(start_jobs: Start, workers: Pair) -> None:
    """All twenty complete with their own pictures, once each; the killed one works again later."""
    jobs = await start_jobs(*workers, health_check_interval_s=0.2)
    pictures = [noise() for _ in range(20)]
    ids = [await jobs.submit(picture=picture, seconds=0.05) for picture in pictures]
    await until(lambda: len(workers[0].executed) >= 2)
    await kill(workers[0])
    before = len(workers[0].executed)
    ends = [await jobs.ends(job_id) for job_id in ids]
    assert {end["status"] for end in ends} == {"completed"}
    assert len({end["prompt_id"] for end in ends}) == 20
    at_first = [end for end in ends if end["comfyui_instance"] == workers[0].host]
    assert len(at_first) <= before
    assert max(end["attempts"] for end in ends) == 2
    for job_id, picture in zip(ids, pictures, strict=True):
        assert open_picture(await jobs.result(job_id)).tobytes() == open_picture(picture).tobytes()
    await workers[0].restart()
    await until(lambda: jobs.instance(workers[0]).check_ok and jobs.instance(workers[0]).healthy)
    again = [await jobs.submit(seconds=0.02) for _ in range(6)]
    used = {(await jobs.ends(job_id))["comfyui_instance"] for job_id in again}
    assert used == {worker.host for worker in workers}


async def test_both_down_at_submit(start_jobs: Start, workers: Pair) -> None:
    """202 at once; the job stays pending, first in the queue, and completes when one returns."""
    for worker in workers:
        await kill(worker)
    jobs = await start_jobs(*workers)
    job_id = await jobs.submit()
    await until(lambda: jobs.http.app and jobs.instance(workers[1]).check_ok is False)
    status = await jobs.status(job_id)
    assert (status["status"], status["queue_position"], status["attempts"]) == ("pending", 1, 0)
    async with jobs.http.get("/health/ready") as answer:
        assert answer.status == 503
    await workers[1].restart()
    end = await jobs.ends(job_id)
    assert (end["status"], end["comfyui_instance"]) == ("completed", workers[1].host)


async def test_pending_timeout(start_jobs: Start, workers: Pair) -> None:
    """A job that nobody could take for PENDING_TIMEOUT fails with ``no_instance``."""
    for worker in workers:
        await kill(worker)
    jobs = await start_jobs(*workers, pending_timeout_s=0.1)
    ids = [await jobs.submit() for _ in range(8)]  # more than there are slots
    for job_id in ids:
        end = await jobs.ends(job_id)
        assert (end["status"], end["error"]["code"]) == ("failed", "no_instance")
        assert (end["started_time"], end["attempts"]) == (None, 0)


async def test_patience_begins_when_the_instance_dies(start_jobs: Start, workers: Pair) -> None:
    """A job that ran longer than PENDING_TIMEOUT and loses its instance still waits for another."""
    worker = workers[0]
    jobs = await start_jobs(worker, pending_timeout_s=5.0)
    job_id = await jobs.submit(seconds=60)
    await until(lambda: worker.started)
    job = jobs.service.manager.get_job(job_id)
    scheduler = jobs.service.cluster.scheduler
    job.created_monotonic -= 100  # as if it had run for that long
    scheduler.door._last_usable_at -= 100
    worker.faults.slow_node_s = 0
    await kill(worker)
    await until(lambda: job.status == "pending")
    await worker.restart()
    await until(lambda: len(worker.started) == 2)
    assert job.attempts == 2
    await jobs.delete(job_id)


async def test_the_next_attempt_is_elsewhere(start_jobs: Start, workers: Pair) -> None:
    """A job is not tried again on the instance that failed it while there is another one."""
    one, two = workers
    for worker in workers:
        worker.faults.answers = {"/upload": "500"}
    jobs = await start_jobs(one, two)
    job_id = await jobs.submit()
    job = jobs.service.manager.get_job(job_id)
    seen: list[str] = []
    while not job.finished:
        if job.instance and seen[-1:] != [job.instance]:
            seen.append(job.instance)
        version = job.version
        await job.wait_until(lambda job, v=version: job.version > v, jobs.service.clock)
    assert len(seen) >= 2
    assert seen[0] != seen[1]
    assert (job.attempts, job.error and job.error.code) == (3, "instance_refused")


async def test_attempts_are_bounded(start_jobs: Start, workers: Pair) -> None:
    """An upload that every instance refuses is tried three times, then the job says why."""
    for worker in workers:
        worker.faults.disk_full = True
    jobs = await start_jobs(*workers)
    end = await jobs.ends(await jobs.submit())
    assert (end["status"], end["attempts"]) == ("failed", 3)
    assert end["error"]["code"] == "instance_refused"
    assert all(jobs.instance(worker).healthy for worker in workers)


async def test_a_workflow_error_is_not_tried_again(jobs: JobClient, workers: Pair) -> None:
    """A node that raises would raise elsewhere too: one attempt, ComfyUI's own words."""
    end = await jobs.ends(await jobs.submit("failing"))
    assert (end["status"], end["attempts"]) == ("failed", 1)
    assert end["error"]["code"] == "workflow_error"
    assert end["error"]["message"] == "FailNode (node 2): CUDA out of memory (simulated)"
    assert sum(len(worker.started) for worker in workers) == 1


async def test_a_sync_caller_does_not_notice(start_jobs: Start, workers: Pair) -> None:
    """Who waits synchronously gets the picture of the second attempt."""
    one, two = workers
    for worker in workers:
        worker.faults.hang = ("/prompt",)
    jobs = await start_jobs(one, two)
    posting: Any = asyncio.create_task(
        jobs.http.post(
            "/api/workflows/timed", data=form(), headers={"Accept": "image/png"}
        ).__aenter__()
    )
    await until(lambda: one.faults._waiters or two.faults._waiters)
    victim, other = (one, two) if one.faults._waiters else (two, one)
    other.faults.clear()
    await kill(victim)
    answer = await posting
    assert (answer.status, answer.content_type) == (200, "image/png")
    job = next(iter(jobs.service.manager))
    assert (job.instance, job.attempts) == (other.host, 2)


async def test_a_job_that_ends_the_process_fails_at_the_second_loss(
    start_jobs: Start, workers: Pair
) -> None:
    """Two deaths in all, then the job says so, and no restart brings it back."""
    for worker in workers:
        worker.faults.die_at_node = "FailNode"
    jobs = await start_jobs(*workers, health_check_interval_s=0.2)
    job_id = await jobs.submit("failing")
    end = await jobs.ends(job_id)
    assert (end["status"], end["attempts"]) == ("failed", 2)
    assert end["error"]["code"] == "process_ended"
    assert "node 2" in end["error"]["message"]
    for worker in workers:
        await worker.restart()
    assert (await jobs.ends(await jobs.submit(seconds=0.02)))["status"] == "completed"
    assert sum(len(worker.started) for worker in workers) == 3


@pytest.mark.long
async def test_a_job_that_never_ran_survives_any_number_of_deaths(
    start_jobs: Start, workers: Pair
) -> None:
    """Its instance dies while it waits to be taken there, again and again: it completes."""
    worker = workers[0]
    jobs = await start_jobs(worker, health_check_interval_s=0.1)
    worker.faults.hang = ("/upload",)
    job_id = await jobs.submit()
    for _ in range(5):
        await until(lambda: worker.faults._waiters)
        await kill(worker)
        worker.faults.hang = ("/upload",)
        await worker.restart()
    worker.faults.clear()
    end = await jobs.ends(job_id)
    assert (end["status"], end["error"], end["attempts"]) == ("completed", None, 6)


async def test_an_instance_that_breaks_every_upload_is_not_tried_for_ever(
    start_jobs: Start, workers: Pair
) -> None:
    """It answers checks, so its circuit stays closed: the job ends with the instance's error."""
    for worker in workers:
        worker.faults.answers = {"/upload": "break"}
    jobs = await start_jobs(*workers)
    end = await jobs.ends(await jobs.submit())
    assert (end["status"], end["error"]["code"]) == ("failed", "instance_unreachable")
    assert end["attempts"] == MAX_BREAKS


async def test_a_picture_whose_socket_was_lost_is_made_once(
    start_jobs: Start, workers: Pair
) -> None:
    """Its prompt goes on; run once more where it ended, it has all but its last node cached."""
    jobs = await start_jobs(*workers)
    job_id = await jobs.submit(seconds=0.3)
    await until(lambda: workers[0].started or workers[1].started)
    maker, other = workers if workers[0].started else workers[::-1]
    maker.drop_connections()
    end = await jobs.ends(job_id)
    assert (end["status"], end["comfyui_instance"]) == ("completed", maker.host)
    assert other.started == []
    again = maker.executed[1:]
    async with jobs.http.session.get(f"{maker.url}/history/{again[0]}") as answer:
        messages = (await answer.json())[again[0]]["status"]["messages"]
    cached = next(data["nodes"] for kind, data in messages if kind == "execution_cached")
    assert len(again) == 1
    assert len(cached) >= 2
