"""The parts of the job API connected: what an application keeps under ``keys.JOBS``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

from aiohttp import web
from loguru import logger

from comfy_proxy.client_identity import client_of
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.jobs.job_admission import JobAdmission
from comfy_proxy.jobs.job_manager import JobManager
from comfy_proxy.jobs.job_processor import JobProcessor
from comfy_proxy.jobs.model import Job
from comfy_proxy.jobs.queue_forecast import Promises, QueueForecast
from comfy_proxy.jobs.requests.input_file import MEMORY_BYTES
from comfy_proxy.jobs.requests.input_urls import InputUrls
from comfy_proxy.jobs.requests.intake import read_job_request
from comfy_proxy.jobs.requests.job_request import JobRequest
from comfy_proxy.jobs.runs.availability import Availability
from comfy_proxy.jobs.runs.job_prompts import JobPrompts
from comfy_proxy.jobs.workflows.registry import WorkflowRegistry
from comfy_proxy.jobs.workflows.watch import TemplateWatch
from comfy_proxy.jobs.workflows.workflow import Workflow
from comfy_proxy.settings import Settings

_PICTURE_THREADS = 2
"""Threads for hashing, decoding and encoding; further work waits. Decoding one picture takes up to
400 MB (MAX_UPLOAD_PIXELS), and each thread more as much again."""


class JobService:
    """Accepts requests as jobs and carries them through; one for each application.

    ``durable`` returns when the jobs that were accepted outlive this process, if they are to.
    ``checks`` raise what is wrong with a request in the eyes of other rooms.
    """

    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        prompts: JobPrompts,
        workflows: WorkflowRegistry,
    ) -> None:
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
        self._admission = JobAdmission(
            cluster, max_jobs=settings.max_pending_jobs, max_bytes=settings.max_spool_size
        )
        self.processor = JobProcessor(
            self.manager,
            cluster,
            prompts,
            workflows,
            executor=self.executor,
            max_concurrent=settings.max_concurrent_jobs,
            admission=self._admission,
        )
        self._urls = InputUrls(settings.input_allowed_hosts, cluster.clock)
        self._promises = Promises(self.processor, cluster)
        self.templates = TemplateWatch(workflows, settings.workflow_directory)
        workflows.on_changed.append(self._name_classes)
        self._turn = asyncio.Lock()
        self.durable: Callable[[], Awaitable[None]] = _in_memory
        self.checks: list[Callable[[JobRequest], None]] = []
        self._forgetting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.templates.start()
        self._forgetting = asyncio.create_task(self.manager.run(), name="forget finished jobs")

    async def close(self) -> None:
        """Give jobs in processing SHUTDOWN_TIMEOUT to finish, fail the rest, end the threads."""
        await self.processor.close(self.settings.shutdown_timeout_s)
        await self.templates.close()
        if self._forgetting is not None:
            self._forgetting.cancel()
            with suppress(asyncio.CancelledError):
                await self._forgetting
        await self._urls.close()
        self.executor.shutdown(wait=True)

    async def read(self, request: web.Request, workflow: Workflow) -> JobRequest:
        """What ``request`` asks for; raises as ``intake.read_job_request``."""
        async with self._turn_of(request):
            return await read_job_request(
                request,
                workflow,
                max_upload_size=self.settings.max_upload_size,
                memory_bytes=self._admission.memory_bytes(),
                executor=self.executor,
                urls=self._urls,
                client=client_of(request, self.settings),
            )

    @asynccontextmanager
    async def _turn_of(self, request: web.Request) -> AsyncIterator[None]:
        """Around reading ``request``: the small ones of a burst are read one after the other.

        Read all at once, the first job of a burst would begin after the last request was read: the
        first of 40 prompts began after 75 ms instead of 25. A body over MEMORY_BYTES, or one that
        is still on its way, does not wait for others, and none waits for it.
        """
        size = request.content_length
        if request.content.is_eof() and size is not None and size <= MEMORY_BYTES:
            async with self._turn:
                yield
        else:
            yield

    def accept(self, request: JobRequest, idempotency_key: str | None) -> tuple[Job, bool]:
        """The job for ``request``, and True if it is new, False if the key had made it before.

        Owns the files of ``request`` from now on, also if it raises: QueueFullError, DrainingError,
        IdempotencyConflictError, WorkflowUnavailableError if every instance is known to be unable
        to run the workflow, or what :attr:`checks` raise.
        """
        try:
            for check in self.checks:
                check(request)
            if idempotency_key is not None:
                known = self.manager.keys.find(idempotency_key, request.fingerprint)
                if known is not None:
                    request.close()
                    return known, False
            self.processor.check_room(request, idempotency_key)
            workflow = self.workflows.get(request.workflow)
            Availability(self.cluster, workflow, request).require()
        except BaseException:
            request.close()
            raise
        job = self.manager.create_job(request, idempotency_key=idempotency_key)
        logger.bind(job_id=job.id, type=job.type).info("job {} accepted", job.id)
        self.processor.submit(job)
        job.told_s = self._promises.told_s(job)
        return job, True

    def _name_classes(self) -> None:
        capabilities = self.cluster.capabilities
        capabilities.name_classes(self.workflows.required_classes())
        for instance in self.cluster.instances:
            if instance.healthy:
                capabilities.heard(instance)

    def forecast(self) -> QueueForecast:
        """What will become of the unfinished jobs, as it looks now."""
        return QueueForecast(self.processor, self.cluster)

    async def cancel(self, job: Job) -> None:
        """End ``job`` as cancelled if it is unfinished, and forget it.

        Returns when nothing of it is left at an instance.
        """
        if not job.finished:
            await self.processor.cancel(job)
        if self.manager.find_job(job.id) is job:
            self.manager.delete_job(job.id)


async def _in_memory() -> None:
    """Without STATE_FILE there is nothing to wait for."""
