"""Story 2.3: how many jobs run, what a freed slot does, how a job is cancelled where it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from job_client import JobClient, noise, until

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.jobs.model import Job, JobStatus

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Awaitable[JobClient]]


def most_running(jobs: JobClient) -> Callable[[], int]:
    """Watches every start of a job; how many were in processing at once, at most."""
    most = 0
    manager = jobs.service.manager
    update = manager.update_job_status

    def watched(job_id: str, status: JobStatus, **more: Any) -> Job:
        nonlocal most
        job = update(job_id, status, **more)
        most = max(most, sum(job.status is JobStatus.PROCESSING for job in manager))
        return job

    manager.update_job_status = watched  # type: ignore[method-assign]
    return lambda: most


async def left_alone(jobs: JobClient, *workers: EmbeddedWorker) -> None:
    """Nothing of ours waits or runs at any worker, and no place is taken."""
    for worker in workers:
        assert worker._life is not None
        queue = worker._life.instance.queue
        assert queue.snapshot()["queue_pending"] == []
        await until(lambda queue=queue: queue.running_id() is None)  # an interrupt takes a moment
        assert jobs.instance(worker).active_jobs == 0
    assert jobs.service.processor.running == jobs.service.processor.waiting == []


@pytest.mark.long
@pytest.mark.parametrize("limit", [1, 4, 6])
async def test_the_limit_is_reached_and_never_exceeded(
    start_jobs: Start, workers: Pair, limit: int
) -> None:
    """MAX_CONCURRENT_JOBS jobs are in processing at once, not one more, and all complete."""
    jobs = await start_jobs(*workers, max_concurrent_jobs=limit)
    most = most_running(jobs)
    filling = [await jobs.submit(seconds=60) for _ in range(limit)]
    for job_id in filling:
        await jobs.reaches(job_id, "processing")
    ids = [await jobs.submit(seconds=0.02) for _ in range(12)]
    for job_id in filling:
        await jobs.delete(job_id)
    assert {(await jobs.ends(job_id))["status"] for job_id in ids} == {"completed"}
    assert most() == limit


async def test_a_freed_slot_starts_the_next_at_once(start_jobs: Start, workers: Pair) -> None:
    """The end of one job is the start of the next, without a clock in between."""
    jobs = await start_jobs(*workers, max_concurrent_jobs=1)
    first, second = await jobs.submit(seconds=60), await jobs.submit(seconds=60)
    await jobs.reaches(first, "processing")
    assert (await jobs.status(second))["queue_position"] == 1
    await jobs.delete(first)
    assert (await jobs.reaches(second, "processing"))["queue_position"] is None
    await jobs.delete(second)


async def test_jobs_start_in_their_order(start_jobs: Start, workers: Pair) -> None:
    """First come, first served."""
    jobs = await start_jobs(workers[0], max_concurrent_jobs=1)
    ids = [await jobs.submit() for _ in range(5)]
    ends = [await jobs.ends(job_id) for job_id in ids]
    assert [end["prompt_id"] for end in ends] == workers[0].executed


async def test_jobs_are_counted_for_each_instance(jobs: JobClient, workers: Pair) -> None:
    """/health tells how many jobs each instance has, and the sum in processing."""
    ids = [await jobs.submit(seconds=60) for _ in range(3)]
    for job_id in ids:
        await jobs.reaches(job_id, "processing")
    health = await jobs.get("/health")
    counts = [entry["active_jobs"] for entry in health["comfyui_instances"]["instances"]]
    assert sorted(counts) == [1, 2]
    assert health["job_processing"]["processing"] == 3
    for job_id in ids:
        await jobs.delete(job_id)
    await left_alone(jobs, *workers)


async def test_a_full_queue_says_so(start_jobs: Start, workers: Pair) -> None:
    """One job more than MAX_PENDING_JOBS waiting is 503 with Retry-After; then there is room."""
    jobs = await start_jobs(*workers, max_concurrent_jobs=1, max_pending_jobs=2)
    running = await jobs.submit(seconds=60)
    await jobs.reaches(running, "processing")
    waiting = [await jobs.submit(seconds=60) for _ in range(2)]
    async with jobs.http.post("/api/upscale-image", data=noise()) as answer:
        assert answer.status == 415
    headers = {"Content-Type": "image/png"}
    async with jobs.http.post("/api/upscale-image", data=noise(), headers=headers) as answer:
        assert (answer.status, (await answer.json())["code"]) == (503, "queue_full")
        assert int(answer.headers["Retry-After"]) >= 1
    await jobs.delete(waiting[0])
    waiting[0] = await jobs.submit(seconds=60)
    for job_id in (*waiting, running):
        await jobs.delete(job_id)


# --- cancelled wherever it is ---------------------------------------------------------------


async def deleted(jobs: JobClient, job_id: str) -> None:
    """DELETE it; whoever waits for it sees the cancellation, afterwards it is unknown."""
    job = jobs.service.manager.get_job(job_id)
    await jobs.delete(job_id)
    assert job.error is not None
    assert (job.status, job.error.code) == (JobStatus.FAILED, "cancelled")
    assert job.request.files["image"].closed
    assert (await jobs.get(f"/api/jobs/{job_id}/status", expect=404))["code"] == "job_not_found"


@pytest.mark.long
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/system_stats", "pending"),  # at the door: the check right before the submission
        ("/object_info", "pending"),  # preparing: what can the instance do
        ("/upload", "processing"),
        ("/ws", "processing"),
        ("/prompt", "processing"),
    ],
)
async def test_cancelled_before_it_is_queued(
    start_jobs: Start, workers: Pair, path: str, status: str
) -> None:
    """Cancelled in each step before its prompt is queued, nothing is left anywhere."""
    worker = workers[0]
    worker.faults.hang = (path,)
    jobs = await start_jobs(worker, health_check_timeout_s=60)
    job_id = await jobs.submit(seconds=60)
    await until(lambda: worker.faults._waiters)
    assert (await jobs.status(job_id))["status"] == status
    job = jobs.service.manager.get_job(job_id)
    deleting = asyncio.create_task(deleted(jobs, job_id))
    await until(lambda: job.finished)
    worker.faults.clear()  # what hung is carried out now: a prompt too, if it was on its way
    await deleting
    await left_alone(jobs, worker)
    assert worker.executed == []


async def test_cancelled_in_our_queue(start_jobs: Start, workers: Pair) -> None:
    """A job that waits here never reaches an instance."""
    jobs = await start_jobs(workers[0], max_concurrent_jobs=1)
    first, second = await jobs.submit(seconds=60), await jobs.submit()
    await jobs.reaches(first, "processing")
    await deleted(jobs, second)
    await deleted(jobs, first)
    await left_alone(jobs, workers[0])
    assert len(workers[0].submitted) <= 1


async def test_cancelled_in_the_instance_s_queue(start_jobs: Start, workers: Pair) -> None:
    """A prompt that waits at its instance is taken out there; the one before it runs on."""
    worker = workers[0]
    jobs = await start_jobs(worker)
    ids = [await jobs.submit(seconds=60) for _ in range(2)]
    manager = jobs.service.manager
    await until(lambda: all(job.prompt_id for job in manager) and worker.started)
    ids.sort(key=lambda job_id: manager.get_job(job_id).prompt_id != worker.started[0])
    await deleted(jobs, ids[1])
    assert (await jobs.status(ids[0]))["status"] == "processing"
    await deleted(jobs, ids[0])
    await left_alone(jobs, worker)
    assert len(worker.started) == 1


async def test_cancelled_while_it_runs(start_jobs: Start, workers: Pair) -> None:
    """A running prompt is interrupted there, and its instance takes the next job."""
    worker = workers[0]
    jobs = await start_jobs(worker)
    job_id = await jobs.submit(seconds=60)
    await until(lambda: worker.started)
    await deleted(jobs, job_id)
    await until(lambda: jobs.service.processor.running == [])
    assert (await jobs.ends(await jobs.submit()))["status"] == "completed"
    await left_alone(jobs, worker)


@pytest.mark.long
async def test_cancelled_while_its_result_is_fetched(start_jobs: Start, workers: Pair) -> None:
    """Between the end of the prompt and the end of the job it can be cancelled too."""
    worker = workers[0]
    worker.faults.hang = ("/view",)
    jobs = await start_jobs(worker)
    job_id = await jobs.submit("upscale-image", noise(1100, 1000), scale=2)  # over 4 megapixels
    await until(lambda: worker.faults._waiters)
    await deleted(jobs, job_id)
    await left_alone(jobs, worker)


async def test_deleted_twice_at_once(start_jobs: Start, workers: Pair) -> None:
    """Of two concurrent DELETEs neither fails, and the job ends once."""
    jobs = await start_jobs(workers[0])
    job_id = await jobs.submit(seconds=60)
    await until(lambda: workers[0].started)
    ended: list[Job] = []
    jobs.service.manager.on_finished.append(ended.append)
    await asyncio.gather(jobs.delete(job_id), jobs.delete(job_id))
    assert [job.id for job in ended] == [job_id]
    await left_alone(jobs, workers[0])


# --- faults of our own, and the stop ----------------------------------------------------------


@pytest.mark.logs_faults
async def test_a_fault_of_our_own_fails_the_job_alone(
    jobs: JobClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that nobody foresaw ends its job with a reason; the processor goes on."""
    with monkeypatch.context() as patch:
        patch.setattr(
            "comfy_proxy.jobs.results.conversion.convert_picture", lambda *_, **__: {}["surprise"]
        )
        end = await jobs.ends(await jobs.submit())
    assert (end["status"], end["error"]["code"]) == ("failed", "internal_error")
    assert (await jobs.ends(await jobs.submit()))["status"] == "completed"


async def test_a_task_that_is_cancelled_from_outside_loses_no_job(jobs: JobClient) -> None:
    """Whoever cancels a job's task, the job ends as failed."""
    job_id = await jobs.submit(seconds=60)
    await jobs.reaches(job_id, "processing")
    processor = jobs.service.processor
    for task in processor._tasks.values():
        task.cancel()
    assert (await jobs.ends(job_id))["error"]["code"] == "draining"


async def test_the_stop_lets_running_jobs_finish(jobs: JobClient, workers: Pair) -> None:
    """Stopping: no new jobs, those that run get their time, those that wait fail with a reason."""
    # None of the first two ends before all have begun, or the one that waits would begin too.
    short = [await jobs.submit(seconds=seconds) for seconds in (0.8, 0.8, 0.01, 0.01, 0.01, 0.01)]
    waiting = await jobs.submit()
    begun = [jobs.service.manager.get_job(job_id) for job_id in short]
    await until(lambda: all(job.attempts for job in begun))
    stopping = asyncio.create_task(jobs.service.processor.close(20))
    await until(lambda: jobs.service.processor.draining)
    async with jobs.http.get("/health/ready") as answer:
        assert answer.status == 503
    headers = {"Content-Type": "image/png"}
    async with jobs.http.post("/api/upscale-image", data=noise(), headers=headers) as answer:
        assert (answer.status, (await answer.json())["code"]) == (503, "draining")
        assert answer.headers["Retry-After"]
    assert (await jobs.status(waiting))["error"]["code"] == "draining"
    await stopping
    assert {(await jobs.status(job_id))["status"] for job_id in short} == {"completed"}


async def test_the_stop_does_not_wait_for_ever(jobs: JobClient, workers: Pair) -> None:
    """After the grace period what still runs is interrupted there and fails with a reason."""
    ids = [await jobs.submit(seconds=60) for _ in range(3)]
    for job_id in ids:
        await jobs.reaches(job_id, "processing")
    await jobs.service.processor.close(0.05)
    ends = [await jobs.status(job_id) for job_id in ids]
    assert [end["error"]["code"] for end in ends] == ["draining"] * 3
    await until(lambda: not any(jobs.instance(worker).active_jobs for worker in workers))
    await left_alone(jobs, *workers)
