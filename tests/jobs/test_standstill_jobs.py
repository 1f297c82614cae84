"""Jobs at an instance that answers and runs nothing: they run elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from job_client import JobClient, until

from comfy_proxy.cluster import standstill
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.jobs.model import JobStatus

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Awaitable[JobClient]]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found soon."""
    monkeypatch.setattr(standstill, "QUIET_S", 0.05)
    monkeypatch.setattr(standstill, "LEAST_S", 0.1)


@pytest.fixture
async def jobs(start_jobs: Start, workers: Pair) -> JobClient:
    return await start_jobs(*workers, hang_timeout_s=0.1)


async def test_jobs_that_wait_there_complete_elsewhere(jobs: JobClient, workers: Pair) -> None:
    """Each runs once, and no later one goes there."""
    one, two = workers
    one.faults.stands_still = True
    ids = [await jobs.submit(seconds=0.05) for _ in range(6)]
    ends = [await jobs.ends(job_id) for job_id in ids]
    assert {end["status"] for end in ends} == {"completed"}
    assert (one.started, len(two.started)) == ([], 6)
    assert jobs.instance(one).stands_still
    before = len(one.submitted)
    assert (await jobs.ends(await jobs.submit()))["comfyui_instance"] == two.host
    assert len(one.submitted) == before


async def test_a_long_job_with_others_behind_it_is_none(jobs: JobClient, workers: Pair) -> None:
    """It runs for longer than an instance may stand still."""
    ids = [await jobs.submit(seconds=0.6) for _ in range(4)]
    for job_id in ids:
        assert (await jobs.ends(job_id))["status"] == "completed"
    assert not any(jobs.instance(worker).stands_still for worker in workers)
    assert sum(len(worker.submitted) for worker in workers) >= 4


@pytest.mark.long
async def test_a_job_that_ends_the_thread_is_tried_twice_in_all(
    start_jobs: Start, workers: Pair
) -> None:
    """It fails with the reason; the jobs behind it complete once the instances are restarted."""
    jobs = await start_jobs(*workers, hang_timeout_s=0.1, comfyui_timeout_s=2)
    for worker in workers:
        worker.faults.thread_dies_at = "FailNode"
    blockers = [await jobs.submit(seconds=60) for _ in workers]
    await until(lambda: all(worker.started for worker in workers))
    fatal = await jobs.submit("failing")
    behind = [await jobs.submit() for _ in range(2)]
    await until(lambda: sum(len(worker.submitted) for worker in workers) >= 5)
    first = (await jobs.status(fatal))["comfyui_instance"]
    at = {(await jobs.status(blocker))["comfyui_instance"]: blocker for blocker in blockers}
    await jobs.delete(at.pop(first))
    (other,) = at
    await until(lambda: jobs.service.manager.get_job(fatal).status is JobStatus.PENDING)
    more = await jobs.submit()
    await jobs.delete(at[other])
    end = await jobs.ends(fatal)
    assert (end["status"], end["error"]["code"]) == ("failed", "prompt_lost")
    assert "the thread of ComfyUI that runs prompts" in end["error"]["message"]
    for worker in workers:
        await worker.restart()
    for job_id in (*behind, more):
        assert (await jobs.ends(job_id))["status"] == "completed"


async def test_a_job_that_was_alone_there_has_one_more_try(
    start_jobs: Start, workers: Pair
) -> None:
    """Nothing tells that it went: it is asked for after COMFYUI_TIMEOUT."""
    jobs = await start_jobs(*workers, hang_timeout_s=0.1, comfyui_timeout_s=0.5)
    for worker in workers:
        worker.faults.thread_dies_at = "FailNode"
    end = await jobs.ends(await jobs.submit("failing"))
    assert (end["status"], end["error"]["code"]) == ("failed", "prompt_lost")
    assert [len(worker.submitted) for worker in workers] == [1, 1]


async def test_it_stays_at_the_only_instance_until_that_is_restarted(
    start_jobs: Start, workers: Pair
) -> None:
    (one, _) = workers
    jobs = await start_jobs(one, hang_timeout_s=0.1)
    one.faults.stands_still = True
    first = await jobs.submit()
    await until(lambda: jobs.instance(one).stands_still)
    later = await jobs.submit()
    assert [(await jobs.status(each))["status"] for each in (first, later)] == [
        "processing",
        "pending",
    ]
    await one.restart()
    for job_id in (first, later):
        assert (await jobs.ends(job_id))["status"] == "completed"
