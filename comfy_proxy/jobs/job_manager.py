"""The jobs in memory: made, found, moved through their states, forgotten.

A finished job is forgotten ``job_timeout_s`` seconds after its end (JOB_TIMEOUT), an unfinished one
never. Its picture may have to go before (``kept_results.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from loguru import logger

from comfy_proxy.clock import Clock, wait_for_event
from comfy_proxy.cluster.comfyui_frames import PictureFrame
from comfy_proxy.cluster.planning.decision import Decision
from comfy_proxy.errors import NotFoundError
from comfy_proxy.jobs.idempotency import IdempotencyKeys
from comfy_proxy.jobs.kept_results import KeptResults
from comfy_proxy.jobs.model import Job, JobFailure, JobStatus
from comfy_proxy.jobs.requests.job_request import JobRequest
from comfy_proxy.jobs.results.result_file import Results
from comfy_proxy.observers import tell


class JobManager:
    """Every job of one application by id. Nothing else changes a job.

    ``max_results_size`` bounds the results of finished jobs, in bytes. ``keys`` finds the job that
    an ``Idempotency-Key`` has made.
    """

    def __init__(self, *, clock: Clock, job_timeout_s: float, max_results_size: int) -> None:
        self._clock = clock
        self._job_timeout_s = job_timeout_s
        self._jobs: dict[str, Job] = {}
        self._finished: dict[str, float] = {}  # job id → when it is forgotten; oldest first
        self._results = KeptResults(max_results_size)
        self.keys = IdempotencyKeys()
        self._finished_one = asyncio.Event()
        self.on_created: list[Callable[[Job], None]] = []
        self.on_changed: list[Callable[[Job], None]] = []
        self.on_finished: list[Callable[[Job], None]] = []
        self.on_forgotten: list[Callable[[Job], None]] = []
        self.on_dropped = self._results.on_dropped  # its result made room for newer ones

    def __repr__(self) -> str:
        return f"<JobManager jobs={len(self._jobs)} results={self._results.size} bytes>"

    def __iter__(self) -> Iterator[Job]:
        return iter(tuple(self._jobs.values()))

    def newest_finished(self) -> Iterator[Job]:
        """The finished jobs, the one that ended last first."""
        return (self._jobs[job_id] for job_id in reversed(self._finished))

    def create_job(self, request: JobRequest, *, idempotency_key: str | None = None) -> Job:
        """A new pending job for ``request``."""
        job = Job(
            type=request.workflow,
            request=request,
            created_at=self._clock.now(),
            created_monotonic=self._clock.monotonic(),
            idempotency_key=idempotency_key,
        )
        job.updated_at = job.created_at
        self._jobs[job.id] = job
        self.keys.note(job)
        tell((*self.on_created, *self.on_changed), job)
        return job

    def restore(self, job: Job, results: Results | None = None) -> None:
        """Take over a job of an earlier process; nobody is told of it.

        One that has ended is kept for JOB_TIMEOUT from now on.
        """
        self._jobs[job.id] = job
        self.keys.note(job)
        if job.finished:
            if results is not None:
                self._results.keep(job, results)
            self._forget_later(job)

    def find_job(self, job_id: str) -> Job | None:
        """The job of that id, or None if it is not (or no longer) ours."""
        return self._jobs.get(job_id)

    def get_job(self, job_id: str) -> Job:
        """The job of that id; raises NotFoundError."""
        job = self.find_job(job_id)
        if job is None:
            raise NotFoundError(
                "There is no such job; finished jobs are forgotten after a while.",
                code="job_not_found",
            )
        return job

    def update_job_status(
        self,
        job_id: str,
        status: JobStatus,
        *,
        instance: str | None = None,
        placement: Decision | None = None,
        results: Results | None = None,
        error: JobFailure | None = None,
    ) -> Job:
        """Move a job to ``status`` and tell the observers. Returns the job.

        ``instance`` is its place for PROCESSING, and ``placement`` why it is there; ``results``
        belong to COMPLETED and ``error`` to FAILED. Raises NotFoundError or
        IllegalTransitionError; then nothing has changed.
        """
        job = self.get_job(job_id)
        job.check_transition(status)
        job.status = status
        if status is JobStatus.PROCESSING:
            job.instance, job.placement = instance, placement
            _begin(job, self._clock)
        elif status is JobStatus.PENDING:
            job.instance = job.prompt_id = job.current_node = job.started_at = job.placement = None
            job.preview = job.executing_since = job.started_monotonic = None
            job.percentage = 0.0  # the next attempt begins anew
        else:
            self._finish(job, results, error)
        job.touch(self._clock.now())
        tell(self.on_changed, job)
        if job.finished:
            tell(self.on_finished, job)
        return job

    def update_progress(
        self,
        job: Job,
        *,
        instance: str,
        prompt_id: str,
        percentage: float,
        current_node: str | None,
        executing: bool = True,
        placement: Decision | None = None,
        preview: PictureFrame | None = None,
    ) -> None:
        """Note what ComfyUI reported of a job in processing; a finished one is left alone.

        Only a change raises the job's version and wakes those who wait for it. ``executing`` is
        False while the prompt waits in the instance's own queue. ``placement`` is why it is at
        ``instance``, None if that has been told.
        """
        seen = (job.instance, job.prompt_id, job.percentage, job.current_node, job.preview)
        new = (instance, prompt_id, percentage, current_node, preview or job.preview)
        if not job.finished and seen != new:
            job.instance, job.prompt_id, job.percentage, job.current_node, job.preview = new
            job.placement = placement or job.placement
            if executing and job.executing_since is None:
                job.executing_since = self._clock.monotonic()
                logger.bind(instance=instance, prompt_id=prompt_id).info(
                    "job {} began on {}", job.id, instance
                )
            job.touch(self._clock.now())
            tell(self.on_changed, job)

    def delete_job(self, job_id: str) -> Job:
        """Forget a finished job at once. Raises NotFoundError."""
        job = self.get_job(job_id)
        self._forget(job)
        return job

    def expire(self) -> float | None:
        """Forget the jobs that are due; returns the seconds until the next one is, or None."""
        now = self._clock.monotonic()
        while self._finished:
            job_id, due = next(iter(self._finished.items()))
            if due > now:
                return due - now
            self._forget(self._jobs[job_id])
        return None

    async def run(self) -> None:
        """Forget finished jobs when they are due, until cancelled."""
        while True:
            next_s = self.expire()
            # Each job that finishes sets this event and puts a new one in its place.
            finished_one = self._finished_one
            await wait_for_event(self._clock, finished_one, next_s)

    def _finish(self, job: Job, results: Results | None, error: JobFailure | None) -> None:
        now = self._clock.monotonic()
        job.completed_at = self._clock.now()
        job.current_node = None
        job.preview = None
        if job.started_monotonic is not None:
            job.processing_time_s = now - job.started_monotonic
        began = job.executing_since
        if began is None and results is not None:  # a dropped socket: only the result was seen
            began = job.started_monotonic
        if began is not None:
            job.waiting_time_s = began - job.created_monotonic
            job.execution_time_s = now - began
        job.error = error
        if results is not None:
            job.percentage = 100.0
            self._results.keep(job, results)
        job.request.close()
        self._forget_later(job)

    def _forget_later(self, job: Job) -> None:
        self._finished[job.id] = self._clock.monotonic() + self._job_timeout_s
        self._finished_one.set()
        self._finished_one = asyncio.Event()

    def _forget(self, job: Job) -> None:
        self._jobs.pop(job.id, None)
        self._finished.pop(job.id, None)
        self._results.release(job)
        self.keys.forget(job)
        tell(self.on_forgotten, job)


def _begin(job: Job, clock: Clock) -> None:
    job.attempts += 1
    job.started_at = clock.now()
    job.started_monotonic = clock.monotonic()


def elapsed_s(job: Job, clock: Clock) -> float | None:
    """Seconds since the job got its place at an instance, up to its end; None without a place."""
    if job.processing_time_s is not None or job.started_monotonic is None:
        return job.processing_time_s
    return clock.monotonic() - job.started_monotonic
