"""The transition table and what a job's waiters see."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from manual_clock import ManualClock, settle

from comfy_proxy.jobs.job_manager import JobManager
from comfy_proxy.jobs.model import IllegalTransitionError, Job, JobStatus
from comfy_proxy.jobs.service import JobService

PENDING, PROCESSING = JobStatus.PENDING, JobStatus.PROCESSING
COMPLETED, FAILED = JobStatus.COMPLETED, JobStatus.FAILED
LEGAL = {
    (PENDING, PROCESSING),
    (PENDING, FAILED),
    (PROCESSING, PENDING),
    (PROCESSING, COMPLETED),
    (PROCESSING, FAILED),
}
WAYS = {PENDING: [], PROCESSING: [PROCESSING], COMPLETED: [PROCESSING, COMPLETED], FAILED: [FAILED]}


def bring(manager: JobManager, job: Job, status: JobStatus) -> None:
    for step in WAYS[status]:
        manager.update_job_status(job.id, step)


@pytest.mark.parametrize(("old", "new"), sorted(LEGAL))
async def test_legal(service: JobService, job: Job, old: JobStatus, new: JobStatus) -> None:
    """Each transition of the picture in the module is possible."""
    bring(service.manager, job, old)
    assert service.manager.update_job_status(job.id, new).status is new


@pytest.mark.parametrize(
    ("old", "new"), sorted(set(itertools.product(JobStatus, JobStatus)) - LEGAL)
)
async def test_illegal(service: JobService, job: Job, old: JobStatus, new: JobStatus) -> None:
    """Any other transition raises, and nothing has happened."""
    bring(service.manager, job, old)
    before = (job.status, job.version, job.completed_at, job.attempts)
    with pytest.raises(IllegalTransitionError):
        service.manager.update_job_status(job.id, new)
    assert (job.status, job.version, job.completed_at, job.attempts) == before


async def test_a_waiter_is_woken_by_the_change_it_waits_for(
    service: JobService, job: Job, clock: ManualClock
) -> None:
    """Another change does not end the wait, the right one does at once."""
    waiting = asyncio.create_task(job.wait_until(lambda job: job.finished, clock))
    service.manager.update_job_status(job.id, PROCESSING)
    await settle()
    assert not waiting.done()
    service.manager.update_job_status(job.id, FAILED)
    assert await waiting is True


async def test_a_wait_runs_out(job: Job, clock: ManualClock) -> None:
    """A wait with a limit says False when the limit is reached, not before."""
    waiting = asyncio.create_task(job.wait_until(lambda job: job.finished, clock, 5.0))
    await clock.advance(4.9)
    assert not waiting.done()
    await clock.advance(0.2)
    assert await waiting is False
    assert clock.waiting == 0


async def test_changes_do_not_prolong_a_wait(
    service: JobService, job: Job, clock: ManualClock
) -> None:
    """The limit counts from the beginning, however often the job changes meanwhile."""
    waiting = asyncio.create_task(job.wait_until(lambda job: job.finished, clock, 5.0))
    for percentage in range(6):
        await clock.advance(1)
        service.manager.update_progress(
            job, instance="a", prompt_id="p", percentage=percentage, current_node=None
        )
    assert await waiting is False


async def test_a_cancelled_waiter_leaves_nothing(job: Job, clock: ManualClock) -> None:
    """A client that goes away takes its timeout with it."""
    waiting = asyncio.create_task(job.wait_until(lambda job: job.finished, clock, 5.0))
    await settle()
    waiting.cancel()
    await settle()
    assert clock.waiting == 0
