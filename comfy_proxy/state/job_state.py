"""The jobs in the file: written as they change, and made again at the start.

A job is written when it is made, with its picture, when it gets or loses its place at an instance,
and when it ends, with its result. Its progress is not written: ComfyUI tells that again.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from loguru import logger

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import ComfyProxyError
from comfy_proxy.jobs.model import Job, JobFailure, JobStatus
from comfy_proxy.jobs.service import JobService
from comfy_proxy.jobs.spooled_picture import SpooledPicture
from comfy_proxy.state import job_record
from comfy_proxy.state.store import StateStore

JOB: Final = "job"
PICTURE: Final = "job-picture"
RESULT: Final = "job-result"
KEPT: Final = timedelta(days=1)
"""A job that ended longer ago is forgotten at the start. Each start keeps ended jobs for another
JOB_TIMEOUT, because nobody could fetch results meanwhile; so without this limit a proxy that is
restarted again and again would keep them for ever."""


class JobState:
    """Observes the jobs of ``service`` once :meth:`watch` was called.

    ``unfinished`` are the ids of prompts that instances had of jobs which go on. Such a prompt is
    not interrupted if it still runs: its picture goes to a socket that is gone, but its job, which
    waits behind it, then finds all but the last node in ComfyUI's cache.
    """

    def __init__(self, store: StateStore, service: JobService) -> None:
        self._store = store
        self._service = service
        self._written: dict[str, tuple[JobStatus, str | None]] = {}
        self.unfinished: set[str] = set()

    def watch(self) -> None:
        """From now on write what changes."""
        self._service.processor.keeps_jobs = True
        manager = self._service.manager
        manager.on_created.append(self._created)
        manager.on_changed.append(self._changed)
        manager.on_forgotten.append(lambda job: self._delete(job.id))
        manager.on_dropped.append(self._dropped)

    async def restore(self) -> int:
        """Make the jobs that the file holds again, in their order; those that had not ended wait
        for a place. Returns how many those are."""
        going_on = 0
        for job_id, data in await self._store.entries(JOB):
            try:
                going_on += await self._restore(job_id, data)
            except (KeyError, TypeError, ValueError, ComfyProxyError) as error:
                logger.error("the job {} in the state file cannot be read: {!r}", job_id, error)
                self._delete(job_id)
        return going_on

    # --- what happens to jobs ----------------------------------------------------------------

    def _created(self, job: Job) -> None:
        self._store.put(PICTURE, job.id, job.request.picture)
        self._write(job)

    def _changed(self, job: Job) -> None:
        if (job.status, job.prompt_id) == self._written.get(job.id):
            return
        self._write(job)
        if job.finished:
            self._store.delete(PICTURE, job.id)
            if job.result is not None:
                self._store.put(RESULT, job.id, job.result.data)

    def _write(self, job: Job) -> None:
        self._written[job.id] = job.status, job.prompt_id
        self._store.put(JOB, job.id, job_record.written(job))

    def _dropped(self, job: Job) -> None:
        self._store.delete(RESULT, job.id)
        self._write(job)

    def _delete(self, job_id: str) -> None:
        self._written.pop(job_id, None)
        for kind in (JOB, PICTURE, RESULT):
            self._store.delete(kind, job_id)

    # --- at the start ------------------------------------------------------------------------

    async def _restore(self, job_id: str, data: bytes) -> bool:
        service, clock = self._service, self._service.clock
        picture = SpooledPicture(service.executor)
        read = job_record.read(data, picture, clock)
        job, result = read.job, read.result
        if job.completed_at is not None and clock.now() - job.completed_at > KEPT:
            self._delete(job_id)
            return False
        self._written[job_id] = job.status, job.prompt_id
        if job.finished:
            picture.close()
            service.manager.restore(
                job, None if result is None else await self._result(job, result)
            )
            return False
        async for piece in self._store.pieces(PICTURE, job_id):
            await picture.write(piece)
        await picture.finish()
        if picture.digest != read.digest:
            raise ValueError("Its picture is not what it was.")
        service.manager.restore(job)
        if read.prompt_id is not None:
            self.unfinished.add(read.prompt_id)
        instances = service.cluster.instances
        self._go_on(job, next((one for one in instances if one.host == read.began_at), None))
        return True

    async def _result(self, job: Job, result: dict[str, Any]) -> Any:
        data = b"".join([piece async for piece in self._store.pieces(RESULT, job.id)])
        if not data:
            raise ValueError("Its result is missing.")
        return job_record.picture_of(result, data)

    def _go_on(self, job: Job, near: Instance | None) -> None:
        try:
            self._service.processor.submit(job, near=near)
        except ComfyProxyError as error:  # its workflow is gone from WORKFLOW_DIRECTORY
            failure = JobFailure(code=error.code, message=error.message, status=error.status)
            self._service.manager.update_job_status(job.id, JobStatus.FAILED, error=failure)
            logger.bind(job_id=job.id).error("job {} failed: {}", job.id, error.message)
