"""The rooms of the job API joined: what an application keeps under ``keys.JOBS``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

from aiohttp import web
from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.jobs.availability import Availability
from comfy_proxy.jobs.intake import JobRequest
from comfy_proxy.jobs.job_manager import JobManager
from comfy_proxy.jobs.job_processor import JobProcessor
from comfy_proxy.jobs.model import Job
from comfy_proxy.jobs.spooled_picture import MEMORY_BYTES
from comfy_proxy.jobs.workflows import WorkflowRegistry
from comfy_proxy.settings import Settings

_PICTURE_THREADS = 2
"""Decoding a picture takes up to 400 MB: more threads would be more of that."""


class JobService:
    """Accepts requests as jobs and carries them through; one for each application."""

    def __init__(self, settings: Settings, cluster: Cluster, workflows: WorkflowRegistry) -> None:
        self.settings = settings
        self.cluster = cluster
        self.clock = cluster.clock
        self.workflows = workflows
        self.executor = ThreadPoolExecutor(_PICTURE_THREADS, thread_name_prefix="comfy-proxy")
        self.manager = JobManager(
            clock=cluster.clock,
            job_timeout_s=settings.job_timeout_s,
            max_results_size=settings.max_results_size,
        )
        self.processor = JobProcessor(
            self.manager,
            cluster,
            workflows,
            executor=self.executor,
            max_concurrent=settings.concurrent_jobs,
            max_pending=settings.max_pending_jobs,
        )
        self._turn = asyncio.Lock()
        self._forgetting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._forgetting = asyncio.create_task(self.manager.run(), name="forget finished jobs")

    async def close(self) -> None:
        """Finish what is in processing within ``SHUTDOWN_TIMEOUT``, fail the rest."""
        await self.processor.close(self.settings.shutdown_timeout_s)
        if self._forgetting is not None:
            self._forgetting.cancel()
            with suppress(asyncio.CancelledError):
                await self._forgetting
        self.executor.shutdown(wait=True)

    @asynccontextmanager
    async def turn(self, request: web.Request) -> AsyncIterator[None]:
        """Around reading ``request``: the small ones of a burst are read one after the other.

        All at once they would keep the event loop busy for as long as the whole burst takes, with
        the first job waiting behind the last request. A body that is large or still on its way
        waits for nobody, and nobody for it.
        """
        size = request.content_length
        if request.content.is_eof() and size is not None and size <= MEMORY_BYTES:
            async with self._turn:
                yield
        else:
            yield

    def accept(self, request: JobRequest, idempotency_key: str | None) -> tuple[Job, bool]:
        """The job for ``request`` and whether it is new (False: the key made it before).

        Takes over ``request.picture``, also when it raises: QueueFullError, DrainingError,
        IdempotencyConflictError, or WorkflowUnavailableError if it is known of every instance
        that it cannot run the workflow.
        """
        try:
            if idempotency_key is not None:
                known = self.manager.find_by_key(idempotency_key, request.fingerprint)
                if known is not None:
                    request.picture.close()
                    return known, False
            self.processor.check_room()
            workflow = self.workflows.get(request.workflow)
            Availability(self.cluster, workflow, request).require()
        except BaseException:
            request.picture.close()
            raise
        job = self.manager.create_job(request, idempotency_key=idempotency_key)
        logger.bind(job_id=job.id, type=job.type).info("job {} accepted", job.id)
        self.processor.submit(job)
        return job, True

    async def cancel(self, job: Job) -> None:
        """End it if it is unfinished, and forget it."""
        if not job.finished:
            await self.processor.cancel(job)
        if self.manager.find_job(job.id) is job:
            self.manager.delete_job(job.id)
