"""The whole: two workers, the proxy in front, workflows that take their time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hosting import Serve
from job_client import JobClient, write_templates


@pytest.fixture
async def start_jobs(
    workers: Any, start_proxy: Callable[..., Any], tmp_path: Path
) -> Callable[..., Awaitable[JobClient]]:
    """``await start_jobs(worker, …, **settings)`` → a client of a proxy with the templates.

    Needs ``workers`` so that proxies end before the instances do.
    """
    templates = tmp_path / "templates"
    templates.mkdir()
    write_templates(templates)

    async def start(*workers: Any, **settings: Any) -> JobClient:
        return JobClient(await start_proxy(*workers, workflow_directory=templates, **settings))

    return start


@pytest.fixture
async def jobs(start_jobs: Callable[..., Awaitable[JobClient]], workers: Any) -> JobClient:
    """The proxy in front of two workers, with the templates."""
    return await start_jobs(*workers)


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """``await serve(app)`` → its URL; as a host runs it: handlers are not cancelled."""
    async with AsyncExitStack() as stack:

        async def start(app: web.Application) -> str:
            runner = web.AppRunner(app, handler_cancellation=False, shutdown_timeout=1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            return f"http://127.0.0.1:{runner.addresses[0][1]}"

        yield start


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made
