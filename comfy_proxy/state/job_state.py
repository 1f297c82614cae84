"""The jobs in the file: written as they change, and made again at the start.

A job is written when it is made, with its files, when it gets or loses its place at an instance,
and when it ends, with its results. Its progress is not written: ComfyUI tells that again.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from loguru import logger

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import ComfyProxyError
from comfy_proxy.jobs.model import Job, JobFailure, JobStatus
from comfy_proxy.jobs.requests.input_file import InputFile
from comfy_proxy.jobs.results.result_file import MEMORY_BYTES, Results
from comfy_proxy.jobs.service import JobService
from comfy_proxy.state import job_record
from comfy_proxy.state.store import StateStore
from comfy_proxy.stored_bytes import StoredBytes

JOB: Final = "job"
FILE: Final = "job-picture"
RESULT: Final = "job-result"
"""Files that a job was given and has made: the first one under the job's id, as when there was only
one, the others under that with ``/`` and their number."""
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
        self._parts: dict[str, int] = {}  # job id → how many files it was given or has made
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
        for at, file in enumerate(job.request.files.values()):
            self._store.put(FILE, self._key(job.id, at), file)
        self._write(job)

    def _changed(self, job: Job) -> None:
        if (job.status, job.prompt_id) == self._written.get(job.id):
            return
        self._write(job)
        if job.finished:
            self._delete_all(FILE, job.id)
            for at, result in enumerate(job.results or ()):
                self._store.put(RESULT, self._key(job.id, at), result.body)

    def _write(self, job: Job) -> None:
        self._written[job.id] = job.status, job.prompt_id
        self._store.put(JOB, job.id, job_record.written(job))

    def _dropped(self, job: Job) -> None:
        self._delete_all(RESULT, job.id)
        self._write(job)

    def _delete(self, job_id: str) -> None:
        self._written.pop(job_id, None)
        self._store.delete(JOB, job_id)
        for kind in (FILE, RESULT):
            self._delete_all(kind, job_id)
        self._parts.pop(job_id, None)

    def _key(self, job_id: str, at: int) -> str:
        self._parts[job_id] = max(at + 1, self._parts.get(job_id, 1))
        return f"{job_id}/{at}" if at else job_id

    def _delete_all(self, kind: str, job_id: str) -> None:
        for at in range(self._parts.get(job_id, 1)):
            self._store.delete(kind, self._key(job_id, at))

    # --- at the start ------------------------------------------------------------------------

    async def _restore(self, job_id: str, data: bytes) -> bool:
        service, clock = self._service, self._service.clock
        read = job_record.read(data, lambda: InputFile(service.executor), clock)
        job, files = read.job, read.job.request.files.values()
        self._parts[job.id] = max(len(files), len(read.results or ()), 1)
        if job.completed_at is not None and clock.now() - job.completed_at > KEPT:
            self._delete(job_id)
            return False
        self._written[job_id] = job.status, job.prompt_id
        if job.finished:
            job.request.close()
            results = read.results
            service.manager.restore(
                job, None if results is None else await self._results(job, results)
            )
            return False
        for at, (file, digest) in enumerate(zip(files, read.digests, strict=True)):
            await self._fill(file, FILE, self._key(job_id, at))
            if file.digest != digest:
                raise ValueError("A file of it is not what it was.")
        service.manager.restore(job)
        if read.prompt_id is not None:
            self.unfinished.add(read.prompt_id)
        instances = service.cluster.instances
        self._go_on(job, next((one for one in instances if one.host == read.began_at), None))
        return True

    async def _results(self, job: Job, results: list[dict[str, Any]]) -> Results:
        made = []
        for at, record in enumerate(results):
            body = StoredBytes(memory_bytes=MEMORY_BYTES)
            await self._fill(body, RESULT, self._key(job.id, at))
            made.append(job_record.result_of(record, body))
        return tuple(made)

    async def _fill(self, file: StoredBytes, kind: str, key: str) -> None:
        async for piece in self._store.pieces(kind, key):
            await file.write(piece)
        await file.finish()

    def _go_on(self, job: Job, near: Instance | None) -> None:
        try:
            self._service.processor.submit(job, near=near)
        except ComfyProxyError as error:  # its workflow is gone from WORKFLOW_DIRECTORY
            failure = JobFailure(code=error.code, message=error.message, status=error.status)
            self._service.manager.update_job_status(job.id, JobStatus.FAILED, error=failure)
            logger.bind(job_id=job.id).error("job {} failed: {}", job.id, error.message)
