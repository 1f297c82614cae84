"""Long polls, and what everybody who waits for a job sees when it is deleted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from made import results
from manual_clock import ManualClock, settle

from comfy_proxy.jobs.model import Job, JobStatus
from comfy_proxy.jobs.service import JobService

MADE = results()


async def get(client: Any, path: str) -> tuple[int, Any]:
    async with client.get(path) as answer:
        is_json = answer.content_type == "application/json"
        return answer.status, await (answer.json() if is_json else answer.read())


async def waiting_get(client: Any, path: str, clock: ManualClock) -> asyncio.Task[tuple[int, Any]]:
    """A GET that has arrived and waits."""
    before = clock.waiting
    task = asyncio.create_task(get(client, path))
    async with asyncio.timeout(5):
        while clock.waiting == before:
            assert not task.done(), task.result()
            await asyncio.sleep(0.001)
    return task


def move(service: JobService, job: Job, *steps: JobStatus) -> None:
    for step in steps:
        result = MADE if step is JobStatus.COMPLETED else None
        service.manager.update_job_status(job.id, step, instance="a:1", results=result)


async def test_a_status_poll_answers_at_a_change(
    service: JobService, job: Job, api_alone: Any, clock: ManualClock
) -> None:
    """``until=change``: as soon as the status differs from that at arrival; progress is none."""
    path = f"/api/jobs/{job.id}/status?wait=300&until=change"
    poll = await waiting_get(api_alone, path, clock)
    move(service, job, JobStatus.PROCESSING)
    status, body = await poll
    assert (status, body["status"]) == (200, "processing")
    poll = await waiting_get(api_alone, path, clock)
    service.manager.update_progress(
        job, instance="a:1", prompt_id="p", percentage=50.0, current_node="1"
    )
    await settle()
    assert not poll.done()
    move(service, job, JobStatus.COMPLETED)
    assert (await poll)[1]["status"] == "completed"


@pytest.mark.parametrize("until", ["", "&until=end"])
@pytest.mark.parametrize("end", [JobStatus.COMPLETED, JobStatus.FAILED])
async def test_a_status_poll_waits_for_the_end(
    service: JobService, job: Job, api_alone: Any, clock: ManualClock, until: str, end: JobStatus
) -> None:
    """One call is enough to know how a job ended: that it began, or begins anew, is no answer."""
    poll = await waiting_get(api_alone, f"/api/jobs/{job.id}/status?wait=300{until}", clock)
    for step in (JobStatus.PROCESSING, JobStatus.PENDING, JobStatus.PROCESSING):
        move(service, job, step)
        await settle()
        assert not poll.done()
    move(service, job, end)
    status, body = await poll
    assert (status, body["status"]) == (200, end)


@pytest.mark.parametrize("wait", ["", "wait=0&", "wait=5&"])
async def test_a_bad_until(job: Job, api_alone: Any, wait: str) -> None:
    """An ``until`` that is neither end nor change is 400 and named, whether one waits or not."""
    status, body = await get(api_alone, f"/api/jobs/{job.id}/status?{wait}until=never")
    assert (status, body["details"]["field"]) == (400, "until")


async def test_a_status_poll_runs_out(job: Job, api_alone: Any, clock: ManualClock) -> None:
    """After N seconds the status is told as it is, with 200."""
    poll = await waiting_get(api_alone, f"/api/jobs/{job.id}/status?wait=5", clock)
    await clock.advance(5)
    status, body = await poll
    assert (status, body["status"]) == (200, "pending")


async def test_a_finished_job_is_not_waited_for(
    service: JobService, job: Job, api_alone: Any
) -> None:
    """Status and result of a finished job come at once, whatever the wait."""
    move(service, job, JobStatus.PROCESSING, JobStatus.COMPLETED)
    assert (await get(api_alone, f"/api/jobs/{job.id}/status?wait=300"))[0] == 200
    assert await get(api_alone, f"/api/jobs/{job.id}/result?wait=300") == (200, b"bytes")


async def test_a_result_poll_waits_for_the_end(
    service: JobService, job: Job, api_alone: Any, clock: ManualClock
) -> None:
    """``/result?wait`` gives the picture as soon as it is there; a status on the way is not it."""
    poll = await waiting_get(api_alone, f"/api/jobs/{job.id}/result?wait=300", clock)
    move(service, job, JobStatus.PROCESSING)
    await settle()
    assert not poll.done()
    move(service, job, JobStatus.COMPLETED)
    assert await poll == (200, b"bytes")


async def test_a_result_poll_runs_out(job: Job, api_alone: Any, clock: ManualClock) -> None:
    """After N seconds a result that is not there is 409."""
    poll = await waiting_get(api_alone, f"/api/jobs/{job.id}/result?wait=5", clock)
    await clock.advance(5)
    assert (await poll)[0] == 409


@pytest.mark.parametrize("what", ["status", "result"])
@pytest.mark.parametrize("wait", ["-1", "301", "soon", "nan", ""])
async def test_a_bad_wait(job: Job, api_alone: Any, what: str, wait: str) -> None:
    """A wait that is no number from 0 to 300 is 400 and named."""
    status, body = await get(api_alone, f"/api/jobs/{job.id}/{what}?wait={wait}")
    assert (status, body["details"]["field"]) == (400, "wait")


@pytest.mark.parametrize("what", ["status", "result"])
async def test_who_leaves_takes_its_wait_along(
    job: Job, api_alone: Any, clock: ManualClock, what: str
) -> None:
    """A long poll whose client has gone ends, with its timeout; the job is untouched."""
    poll = await waiting_get(api_alone, f"/api/jobs/{job.id}/{what}?wait=300", clock)
    poll.cancel()
    async with asyncio.timeout(5):
        while clock.waiting:
            await settle()
    assert job.status is JobStatus.PENDING


@pytest.mark.parametrize("begun", [False, True])
async def test_everybody_who_waits_sees_the_cancellation(
    service: JobService, job: Job, api_alone: Any, clock: ManualClock, begun: bool
) -> None:
    """Long polls and the event stream see ``failed`` with ``cancelled``; afterwards it is 404."""
    if begun:
        move(service, job, JobStatus.PROCESSING)
    path = f"/api/jobs/{job.id}"
    status_poll = await waiting_get(api_alone, f"{path}/status?wait=300", clock)
    result_poll = await waiting_get(api_alone, f"{path}/result?wait=300", clock)
    events = asyncio.create_task(get(api_alone, f"{path}/events"))
    async with asyncio.timeout(5):
        while clock.waiting < 3:
            await settle()
    async with api_alone.delete(path) as answer:
        assert answer.status == 200
        assert "cancelled" in (await answer.json())["message"]
    status, body = await status_poll
    assert (status, body["status"], body["error"]["code"]) == (200, "failed", "cancelled")
    status, body = await result_poll
    assert (status, body["details"]["job_error"]["code"]) == (409, "cancelled")
    last = (await events)[1].split(b"\n\n")[-2]
    assert last.startswith(b"event: failed\n")
    assert b'"code":"cancelled"' in last
    for what in ("status", "result", "events", "info"):
        assert (await get(api_alone, f"{path}/{what}"))[0] == 404


@pytest.mark.parametrize("end", [JobStatus.COMPLETED, JobStatus.FAILED])
async def test_a_finished_job_is_forgotten(
    service: JobService, job: Job, api_alone: Any, end: JobStatus
) -> None:
    """DELETE of a finished job forgets it and its picture; a second one is 404."""
    move(service, job, JobStatus.PROCESSING, end)
    async with api_alone.delete(f"/api/jobs/{job.id}") as answer:
        assert (answer.status, "forgotten" in (await answer.json())["message"]) == (200, True)
    async with api_alone.delete(f"/api/jobs/{job.id}") as answer:
        assert (answer.status, (await answer.json())["code"]) == (404, "job_not_found")
    assert repr(service.manager) == "<JobManager jobs=0 results=0 bytes>"
