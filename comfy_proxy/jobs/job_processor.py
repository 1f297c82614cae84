"""Runs the jobs over all instances, and ends each one as completed or failed.

Each job has a task. At most ``max_concurrent`` of them (MAX_CONCURRENT_JOBS) have a place at an
instance, or work on what came from there; the others wait at the scheduler's door: nothing polls.
A job whose instance fails under it goes back to pending and runs again, on another instance if
there is a choice; an error of the workflow itself is final.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import Final

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import (
    ComfyProxyError,
    DrainingError,
    JobCancelledError,
    WorkflowError,
)
from comfy_proxy.jobs.job_admission import JobAdmission
from comfy_proxy.jobs.job_manager import JobManager
from comfy_proxy.jobs.model import Job, JobFailure, JobStatus
from comfy_proxy.jobs.requests.job_request import JobRequest
from comfy_proxy.jobs.runs.job_prompts import JobPrompts
from comfy_proxy.jobs.runs.job_run import JobRun
from comfy_proxy.jobs.runs.overheads import Overheads
from comfy_proxy.jobs.workflows.registry import WorkflowRegistry
from comfy_proxy.metrics.durations import rounded
from comfy_proxy.observers import tell_all
from comfy_proxy.tracing import about, traced, untraced

JOBS_EACH: Final = 3
"""For each instance so many jobs may have a place at once, where MAX_CONCURRENT_JOBS is not set."""


class JobProcessor:
    """Sees each job to its end; clients get their turns one after the other, and each its jobs
    first come first served, unless the planner knows better.

    ``max_concurrent`` None means three for each instance that there is. ``admission`` says which
    new jobs may wait.
    ``on_end`` callbacks hear that the work on a job is over, and gone from :attr:`runs`.
    ``keeps_jobs``: a stop ends no job, because the next start has them again (STATE_FILE).
    """

    def __init__(
        self,
        manager: JobManager,
        cluster: Cluster,
        prompts: JobPrompts,
        workflows: WorkflowRegistry,
        *,
        executor: Executor,
        max_concurrent: int | None,
        admission: JobAdmission,
    ) -> None:
        self._manager = manager
        self._cluster = cluster
        self._prompts = prompts
        self._workflows = workflows
        self._executor = executor
        self._max_concurrent = max_concurrent
        self._admission = admission
        self._tasks: dict[Job, asyncio.Task[None]] = {}
        self._runs: dict[Job, JobRun] = {}
        self._stopped = False
        self.draining = False  # no further job is taken; those that were go on
        self.keeps_jobs = False
        self.overheads = Overheads()
        self.on_end: list[Callable[[], None]] = []
        cluster.scheduler.door.room = self._room
        manager.on_changed.append(admission.observe)

    def __repr__(self) -> str:
        return f"<JobProcessor jobs={len(self._tasks)} waiting={len(self.waiting)}>"

    @property
    def max_concurrent(self) -> int:
        """Most jobs that have a place at an instance at once, over all instances."""
        if self._max_concurrent is not None:
            return self._max_concurrent
        return JOBS_EACH * len(self._cluster.instances)

    @property
    def waiting(self) -> list[Job]:
        """Pending jobs in the order in which their turns come: they have no place at an instance
        yet, or have lost it."""
        runs = [run for job, run in self._runs.items() if job.status is JobStatus.PENDING]
        return [run.job for run in sorted(runs, key=lambda run: run.waiter.order)]

    @property
    def running(self) -> list[Job]:
        """Jobs in processing."""
        return [job for job in self._tasks if job.status is JobStatus.PROCESSING]

    def check_room(self, request: JobRequest, idempotency_key: str | None = None) -> None:
        """Raises QueueFullError or DrainingError if no job of ``request`` can be taken now.

        To be called before the job is made: :meth:`submit` itself refuses nothing.
        """
        if self.draining:
            raise DrainingError("The proxy is stopping and takes no new jobs.", retry_after_s=5)
        self._admission.require(request, idempotency_key)

    def submit(self, job: Job, *, near: Instance | None = None) -> None:
        """Begin the work on a pending job; it waits at the door until it gets a place: at ``near``,
        where an earlier process has begun with it, as long as that can be."""
        self._admission.joined(job)
        run = self._runs[job] = self._job_run(job, near)
        # Untraced: what happens in this job is not to be told under the id of another request.
        task = asyncio.create_task(self._run(job, run), name=f"job {job.id}", context=untraced())
        self._tasks[job] = task
        task.add_done_callback(partial(self._ended, job), context=untraced())

    @property
    def runs(self) -> Mapping[Job, JobRun]:
        """The work on each unfinished job, in the order in which they came."""
        return self._runs

    async def cancel(self, job: Job) -> None:
        """End an unfinished job as failed with the code ``cancelled``, wherever it is.

        Those who wait for it are woken at once. Returns when its prompt was withdrawn from the
        instance, or need not be.
        """
        self._fail(job, _CANCELLED)
        task = self._tasks.get(job)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def close(self, grace_s: float) -> None:
        """Take no new jobs and end all: those in processing have ``grace_s`` seconds to finish.

        Pending ones fail at once, the rest after the grace period, with the code ``draining``;
        unless they are kept: then whoever waits for them is told so.
        """
        self._stopped = self.draining = True
        for job in self.waiting:
            self._stop(job)
            if job in self._tasks:
                self._tasks[job].cancel()
        if self._tasks and grace_s > 0:
            logger.info("waiting up to {:g} s for {} jobs", grace_s, len(self._tasks))
            with suppress(TimeoutError):
                async with self._cluster.clock.timeout(grace_s):
                    await asyncio.wait(self._tasks.values())
        tasks = dict(self._tasks)
        for job, task in tasks.items():
            self._stop(job)
            task.cancel()
        if tasks:
            await asyncio.wait(tasks.values())

    # --- one job -------------------------------------------------------------------------

    def _room(self) -> int:
        """How many more jobs may have a place at an instance."""
        if self._stopped:
            return 0
        return self.max_concurrent - (len(self._tasks) - len(self._cluster.scheduler.door))

    def _ended(self, job: Job, _task: asyncio.Task[None]) -> None:
        self._tasks.pop(job, None)
        turn = self._runs.pop(job).waiter.turn
        self._cluster.scheduler.door.shares.end(job.request.client, turn)
        tell_all(self.on_end, "the end of a job")
        self._cluster.scheduler.door.open()
        self._cluster.scheduler.rebalancing.ask()

    async def _run(self, job: Job, run: JobRun) -> None:
        with traced(job.trace), about(job_id=job.id):
            try:
                results = await run.run()
                self._manager.update_job_status(job.id, JobStatus.COMPLETED, results=results)
                _log_end(job, "INFO", "completed")
            except ComfyProxyError as error:
                self._fail(job, error)
            except Exception as error:  # a fault of ours: the job must have an end all the same
                logger.opt(exception=error).error("job {} met an internal fault", job.id)
                self._fail(job, ComfyProxyError("An internal fault ended the job."))
            except asyncio.CancelledError:
                self._stop(job)  # no effect if `cancel` or `close` has ended it already
                raise

    def _job_run(self, job: Job, near: Instance | None) -> JobRun:
        return JobRun(
            job,
            manager=self._manager,
            cluster=self._cluster,
            prompts=self._prompts,
            workflow=self._workflows.get(job.type),
            overheads=self.overheads,
            executor=self._executor,
            cached_at=near,
        )

    def _stop(self, job: Job) -> None:
        if not self.keeps_jobs:
            self._fail(job, _STOPPED)
        elif not job.finished:
            job.suspend()

    def _fail(self, job: Job, error: ComfyProxyError) -> None:
        if job.finished:  # it was cancelled or stopped before: the first end counts
            return
        failure = JobFailure(code=error.code, message=error.message, status=error.status)
        self._manager.update_job_status(job.id, JobStatus.FAILED, error=failure)
        level = "INFO" if error is _CANCELLED else "ERROR"
        _log_end(job, level, f"failed: {error.code}: {error.message}", error)


def _log_end(job: Job, level: str, message: str, error: ComfyProxyError | None = None) -> None:
    """Log a job's end with its costs in seconds, and with its own request id.

    The request that deletes a job is another one than that which made it.
    """
    costs = {
        "type": job.type,
        "attempts": job.attempts,
        "waiting_seconds": rounded(job.waiting_time_s),
        "processing_seconds": rounded(job.execution_time_s),
    }
    with traced(job.trace), about(job_id=job.id):
        logger.bind(
            instance=job.instance,
            prompt_id=job.prompt_id,
            exception=error.node_traceback if isinstance(error, WorkflowError) else None,
            **costs,
        ).log(level, "job {} {}", job.id, message)


_CANCELLED = JobCancelledError("The job was cancelled.")
_STOPPED = DrainingError("The proxy was stopped before the job was done.")
