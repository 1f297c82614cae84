"""Both clients, and a proxy in front of two workers with workflows that take their time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import templates_of_all_kinds
from aiohttp import web
from aiohttp.test_utils import TestClient
from both_clients import client_of
from job_client import JobClient, write_templates


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def front(
    workers: Any, start_proxy: Callable[..., Any], tmp_path: Path
) -> TestClient[web.Request, web.Application]:
    directory = templates_of_all_kinds.write(write_templates(tmp_path))
    return await start_proxy(*workers, workflow_directory=directory)


@pytest.fixture
def jobs(front: TestClient[web.Request, web.Application]) -> JobClient:
    """The server's side of the jobs."""
    return JobClient(front)


@pytest.fixture
async def client(kind: str, front: TestClient[web.Request, web.Application]) -> AsyncIterator[Any]:
    async with client_of(kind, front.make_url("/")) as made:
        yield made
