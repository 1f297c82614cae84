"""Story 2.1, line by line: the jobs in memory."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from made import results
from manual_clock import ManualClock, settle

from comfy_proxy.errors import IdempotencyConflictError, NotFoundError
from comfy_proxy.jobs.job_manager import JobManager, elapsed_s
from comfy_proxy.jobs.model import Job, JobFailure, JobStatus
from comfy_proxy.jobs.results.result_file import Results
from comfy_proxy.jobs.service import JobService

Make = Callable[..., Awaitable[Any]]


def picture(size: int) -> Results:
    data = bytes(size)
    return results(data)


@pytest.fixture
def manager(service: JobService) -> JobManager:
    return service.manager


def complete(manager: JobManager, job: Job, size: int = 10) -> Job:
    manager.update_job_status(job.id, JobStatus.PROCESSING, instance="a:1")
    return manager.update_job_status(job.id, JobStatus.COMPLETED, results=picture(size))


async def test_create(manager: JobManager, make_request: Make, clock: ManualClock) -> None:
    """A new job is pending, has a UUID, its data and the time of its making."""
    job = manager.create_job(await make_request(scale=3))
    assert str(uuid.UUID(job.id)) == job.id
    assert (job.status, job.type) == (JobStatus.PENDING, "upscale-image")
    assert job.data == {"scale": 3.0, "format": "PNG"}
    assert job.created_at == job.updated_at == clock.now()
    assert list(manager) == [job]


async def test_get_and_find(manager: JobManager, job: Job) -> None:
    """A job is found by its id; an unknown one is said to be unknown."""
    assert manager.get_job(job.id) is manager.find_job(job.id) is job
    assert manager.find_job("nobody") is None
    with pytest.raises(NotFoundError) as caught:
        manager.get_job("nobody")
    assert (caught.value.code, caught.value.status) == ("job_not_found", 404)


async def test_times_of_a_life(manager: JobManager, job: Job, clock: ManualClock) -> None:
    """Waiting, here and at the instance, and execution are measured apart; the clock stops."""
    await clock.advance(2)
    assert elapsed_s(job, clock) is None
    manager.update_job_status(job.id, JobStatus.PROCESSING, instance="a:1")
    await clock.advance(3)
    assert elapsed_s(job, clock) == 3.0
    manager.update_progress(
        job, instance="a:1", prompt_id="p", percentage=0.0, current_node="1", executing=True
    )
    await clock.advance(4)
    manager.update_job_status(job.id, JobStatus.COMPLETED, results=picture(1))
    await clock.advance(5)
    assert (job.waiting_time_s, job.execution_time_s) == (5.0, 4.0)
    assert (job.processing_time_s, elapsed_s(job, clock)) == (7.0, 7.0)
    assert (job.instance, job.percentage, job.attempts) == ("a:1", 100.0, 1)


async def test_a_second_attempt_begins_anew(
    manager: JobManager, job: Job, clock: ManualClock
) -> None:
    """Back in pending, nothing of the instance that failed is left, nor of what it took there."""
    manager.update_job_status(job.id, JobStatus.PROCESSING, instance="a:1")
    manager.update_progress(
        job, instance="a:1", prompt_id="p", percentage=40.0, current_node="2", executing=True
    )
    started = job.started_at
    manager.update_job_status(job.id, JobStatus.PENDING)
    left = (job.instance, job.prompt_id, job.current_node, job.preview, job.executing_since)
    assert left == (None,) * 5
    assert (job.percentage, job.started_at, elapsed_s(job, clock)) == (0.0, None, None)
    await clock.advance(1)
    manager.update_job_status(job.id, JobStatus.PROCESSING, instance="b:1")
    assert job.attempts == 2
    assert job.started_at > started


async def test_delete(manager: JobManager, job: Job) -> None:
    """A deleted job is gone, with its result; a second time there is none to delete."""
    complete(manager, job)
    assert manager.delete_job(job.id) is job
    assert "jobs=0 results=0 bytes" in repr(manager)
    with pytest.raises(NotFoundError):
        manager.delete_job(job.id)


async def test_a_finished_job_is_forgotten_after_job_timeout(
    manager: JobManager, job: Job, clock: ManualClock
) -> None:
    """JOB_TIMEOUT counts from the end of the job; one in work is never forgotten."""
    running = asyncio.create_task(manager.run())
    await clock.advance(10_000)
    complete(manager, job)
    await clock.advance(299.9)
    assert manager.find_job(job.id) is job
    await clock.advance(0.2)
    assert manager.find_job(job.id) is None
    running.cancel()
    await asyncio.wait([running])


async def test_each_is_forgotten_at_its_own_time(
    manager: JobManager, make_request: Make, clock: ManualClock
) -> None:
    """A job that ended later goes later, though both are looked after by one task."""
    running = asyncio.create_task(manager.run())
    first, second = [manager.create_job(await make_request()) for _ in range(2)]
    complete(manager, second)
    await clock.advance(100)
    complete(manager, first)
    await clock.advance(201)
    assert list(manager) == [first]
    await clock.advance(100)
    assert list(manager) == []
    running.cancel()
    await asyncio.wait([running])


async def test_the_oldest_results_go_first(manager: JobManager, make_request: Make) -> None:
    """Over the bound the oldest results are dropped, and the newest stay."""
    jobs = [manager.create_job(await make_request()) for _ in range(4)]
    for job in reversed(jobs):  # the order of their ends counts, not that of their making
        complete(manager, job, 400)
    assert [job.results is None for job in jobs] == [False, False, True, True]
    complete(manager, last := manager.create_job(await make_request()), 5000)
    assert last.results is not None
    assert all(job.results is None for job in jobs)
    assert "results=5000 bytes" in repr(manager)


async def test_the_sum_of_results_follows_what_is_forgotten(
    manager: JobManager, make_request: Make
) -> None:
    """Dropped, deleted and kept results are counted once each."""
    jobs = [manager.create_job(await make_request()) for _ in range(3)]
    for job in jobs:
        complete(manager, job, 400)
    for job in jobs:
        manager.delete_job(job.id)
    assert repr(manager) == "<JobManager jobs=0 results=0 bytes>"


async def test_the_upload_ends_with_its_job(manager: JobManager, make_request: Make) -> None:
    """Whichever way a job ends, its picture's spool is closed."""
    done, failed = [manager.create_job(await make_request()) for _ in range(2)]
    complete(manager, done)
    failure = JobFailure(code="x", message="x", status=502)
    manager.update_job_status(failed.id, JobStatus.FAILED, error=failure)
    assert done.request.files["image"].closed
    assert failed.request.files["image"].closed
    assert failed.error == failure


async def test_progress_of_a_finished_job_is_ignored(manager: JobManager, job: Job) -> None:
    """A frame that comes late changes nothing."""
    complete(manager, job)
    version = job.version
    manager.update_progress(job, instance="b", prompt_id="q", percentage=1.0, current_node="9")
    assert (job.version, job.percentage, job.instance) == (version, 100.0, "a:1")


async def test_the_same_progress_is_no_news(manager: JobManager, job: Job) -> None:
    """Nobody is woken by a frame that changes nothing a client can see."""
    manager.update_job_status(job.id, JobStatus.PROCESSING)
    for _ in range(3):
        manager.update_progress(job, instance="a", prompt_id="p", percentage=5.0, current_node="1")
    assert job.version == 2


async def test_idempotency_keys(manager: JobManager, make_request: Make) -> None:
    """A key finds its job until that is forgotten; with another request it is refused."""
    job = manager.create_job(await make_request(), idempotency_key="k")
    assert manager.keys.find("k", "f") is job
    assert manager.keys.find("other", "f") is None
    with pytest.raises(IdempotencyConflictError):
        manager.keys.find("k", "another request")
    complete(manager, job)
    manager.delete_job(job.id)
    assert manager.keys.find("k", "another request") is None


async def test_callbacks_hear_each_end_once(manager: JobManager, make_request: Make) -> None:
    """``on_finished`` is told the finished job, completed or failed, once."""
    heard: list[Job] = []
    manager.on_finished.append(heard.append)
    done, failed = [manager.create_job(await make_request()) for _ in range(2)]
    complete(manager, done)
    manager.update_job_status(failed.id, JobStatus.FAILED)
    await settle()
    assert heard == [done, failed]
