"""Jobs after a restart: what had ended is told as before, what had not ends now."""

from __future__ import annotations

import asyncio

import pytest
from job_client import form, noise, open_picture, until
from restarting import Restarting

from comfy_proxy.jobs.model import JobStatus

LONG_S = 60.0


async def test_a_job_that_had_ended(proxy: Restarting) -> None:
    """Status, result, ETag and key are what they were; what is deleted is gone for good."""
    await proxy.start()
    headers, picture = {"Idempotency-Key": "key"}, noise()

    async def submit() -> str:
        data = form(picture, salt=1)
        async with proxy.http.post("/api/workflows/timed", data=data, headers=headers) as answer:
            return str((await answer.json())["job_id"])

    job_id = await submit()
    before = await proxy.jobs.ends(job_id)
    await proxy.restart()
    assert await proxy.jobs.status(job_id) == before
    assert open_picture(await proxy.jobs.result(job_id)).tobytes() == (
        open_picture(picture).tobytes()
    )
    assert await submit() == job_id
    async with proxy.http.post(
        "/api/workflows/timed", data=form(noise(), salt=1), headers=headers
    ) as answer:
        assert answer.status == 422
    await proxy.jobs.delete(job_id)
    await proxy.restart()
    await proxy.jobs.get(f"/api/jobs/{job_id}/info", expect=404)


async def test_a_job_that_had_failed(proxy: Restarting) -> None:
    """Its error is told again, its parameters to the last digit, and it is not tried again."""
    await proxy.start()
    salt = 12345678901234567890123
    job_id = await proxy.jobs.submit("failing", salt=salt)
    before = await proxy.jobs.ends(job_id)
    assert (before["status"], before["parameters"]["salt"]) == ("failed", salt)
    executed = sum(len(worker.executed) for worker in proxy.workers)
    await proxy.restart()
    assert await proxy.jobs.status(job_id) == before
    assert sum(len(worker.executed) for worker in proxy.workers) == executed


async def test_a_result_that_made_room(proxy: Restarting) -> None:
    """MAX_RESULTS_SIZE bounds what the file holds too: the answer stays 410."""
    await proxy.start(max_results_size=1)
    first, second = [await proxy.jobs.submit(picture=noise()) for _ in range(2)]
    for job_id in (first, second):
        await proxy.jobs.ends(job_id)
    await proxy.restart()
    jobs = [proxy.jobs.service.manager.get_job(one) for one in (first, second)]
    dropped = [job.id for job in jobs if job.results is None]
    assert len(dropped) == 1
    await proxy.jobs.get(f"/api/jobs/{dropped[0]}/result", expect=410)


async def test_a_stop_with_jobs_under_way(proxy: Restarting) -> None:
    """Those that ran and those that waited go on, in their order; nothing of them is left at the
    instances meanwhile."""
    await proxy.start(max_concurrent_jobs=1)
    ids = [await proxy.jobs.submit(picture=noise(), seconds=LONG_S)]
    await proxy.jobs.reaches(ids[0], "processing")
    ids += [await proxy.jobs.submit(picture=noise(), seconds=0) for _ in range(3)]
    await proxy.stop()
    await until(lambda: not any(worker.queue_remaining for worker in proxy.workers))
    await proxy.start()
    assert [job.id for job in proxy.jobs.service.manager] == ids
    job = proxy.jobs.service.manager.get_job(ids[0])
    assert (await proxy.jobs.reaches(job.id, "processing"))["attempts"] == 2
    await proxy.jobs.delete(ids[0])
    assert {(await proxy.jobs.ends(one))["status"] for one in ids[1:]} == {"completed"}


async def test_who_waits_at_the_stop(proxy: Restarting) -> None:
    """A waiting request is answered 503 with the code ``draining`` and may come back; a stream of
    events ends without an end of the job."""
    await proxy.start(max_concurrent_jobs=1)
    job_id = await proxy.jobs.submit(seconds=LONG_S)
    await proxy.jobs.reaches(job_id, "processing")
    asking = asyncio.create_task(
        proxy.jobs.get(f"/api/jobs/{job_id}/result", expect=503, wait="60")
    )
    async with proxy.http.get(f"/api/jobs/{job_id}/events") as events:
        await events.content.readuntil(b"\n\n")
        job = proxy.jobs.service.manager.get_job(job_id)
        await until(lambda: len(job._changed._waiters) == 2)
        stopping = asyncio.create_task(proxy.stop())
        assert (await asking)["code"] == "draining"
        assert b"failed" not in await events.content.read()
    await stopping
    await proxy.start()
    assert (await proxy.jobs.reaches(job_id, "processing"))["status"] == "processing"
    await proxy.jobs.delete(job_id)


@pytest.mark.long
async def test_killed_right_after_the_202(proxy: Restarting) -> None:
    """What was accepted is in the file by then, picture and all."""
    await proxy.start(max_concurrent_jobs=1)
    blocking = await proxy.jobs.submit(seconds=LONG_S)
    await proxy.jobs.reaches(blocking, "processing")
    picture = noise(900, 900)  # more than is kept in memory
    job_id = await proxy.jobs.submit(picture=picture)
    proxy.killed_now()
    await proxy.restart()
    await proxy.jobs.delete(blocking)
    assert open_picture(await proxy.jobs.result(job_id)).tobytes() == (
        open_picture(picture).tobytes()
    )


async def test_a_workflow_that_is_gone(proxy: Restarting) -> None:
    """Its job fails and says so; the others go on."""
    await proxy.start(max_concurrent_jobs=1)
    blocking = await proxy.jobs.submit(seconds=LONG_S)
    await proxy.jobs.reaches(blocking, "processing")
    job_id = await proxy.jobs.submit("failing")
    await proxy.stop()
    (proxy.settings["workflow_directory"] / "failing.json").unlink()
    await proxy.start()
    job = proxy.jobs.service.manager.get_job(job_id)
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert job.error.code == "unknown_workflow"
    assert (await proxy.jobs.reaches(blocking, "processing"))["attempts"] == 2
    await proxy.jobs.delete(blocking)
