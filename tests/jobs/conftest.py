"""Two ways to test the job API: alone on a manual clock, and whole in front of two workers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from job_client import PNG
from manual_clock import ManualClock
from rooms import make_gateway, make_job_prompts

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.jobs import operations
from comfy_proxy.jobs.media.file_info import FileKind
from comfy_proxy.jobs.model import Job
from comfy_proxy.jobs.requests.input_file import InputFile
from comfy_proxy.jobs.requests.job_request import JobRequest
from comfy_proxy.jobs.service import JobService
from comfy_proxy.jobs.workflows.directory import load_workflows
from comfy_proxy.keys import CLUSTER, GATEWAY, JOBS, METRICS, WEBHOOKS
from comfy_proxy.middleware import register
from comfy_proxy.observation import observe
from comfy_proxy.settings import Settings
from comfy_proxy.webhooks.webhooks import Webhooks


@pytest.fixture
async def service(clock: ManualClock) -> AsyncIterator[JobService]:
    """The rooms of the job API on a manual clock; the cluster is there but not started."""
    settings = Settings(job_timeout_s=300.0, max_results_size=1000)
    workflows = load_workflows(None)
    cluster = Cluster(settings, classes=workflows.required_classes(), clock=clock)
    made = JobService(settings, cluster, make_job_prompts(cluster), workflows)
    made.processor._max_concurrent = 0  # what is submitted waits
    yield made
    await cluster.scheduler.close()
    made.executor.shutdown()


@pytest.fixture
def make_request(service: JobService) -> Callable[..., Awaitable[JobRequest]]:
    """``await make_request(workflow=…, **parameters)``: as the intake would have read it."""

    async def make(
        workflow: str = "upscale-image", fingerprint: str = "f", **parameters: Any
    ) -> JobRequest:
        picture = InputFile(service.executor)
        await picture.write(PNG)
        await picture.finish()
        await picture.inspect(FileKind.IMAGE, field="image")
        return JobRequest(
            workflow=workflow,
            parameters=service.workflows.get(workflow).parse_parameters(parameters),
            options={},
            files={"image": picture},
            fingerprint=fingerprint,
        )

    return make


@pytest.fixture
async def job(service: JobService, make_request: Callable[..., Awaitable[JobRequest]]) -> Job:
    """A pending job that nobody processes: the test moves it."""
    return service.manager.create_job(await make_request())


@pytest.fixture
async def api_alone(service: JobService) -> AsyncIterator[TestClient[Any, Any]]:
    """The endpoints over ``service``; nothing behind them runs."""
    app = web.Application()
    app[CLUSTER], app[JOBS] = service.cluster, service
    app[GATEWAY] = make_gateway(service.cluster)
    app[WEBHOOKS] = Webhooks(service.settings, service)
    register(app, operations.routes(), service.settings)
    app[METRICS] = observe(app)
    async with TestClient(TestServer(app, handler_cancellation=True)) as client:
        yield client
