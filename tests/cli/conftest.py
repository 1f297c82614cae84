"""The command as a process of its own, and a proxy in this process that it speaks to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import templates_of_all_kinds
from aiohttp import web
from aiohttp.test_utils import TestClient
from command_process import CommandLine, command_line
from job_client import JobClient, write_templates


@pytest.fixture
async def front(
    workers: Any, start_proxy: Callable[..., Any], tmp_path: Path
) -> TestClient[web.Request, web.Application]:
    """A proxy with the workflows ``timed`` and ``failing`` beside the shipped ones."""
    (tmp_path / "templates").mkdir()
    return await start_proxy(
        *workers,
        workflow_directory=templates_of_all_kinds.write(write_templates(tmp_path / "templates")),
    )


@pytest.fixture
def jobs(front: TestClient[web.Request, web.Application]) -> JobClient:
    """The server's side of the jobs."""
    return JobClient(front)


@pytest.fixture
def command(front: TestClient[web.Request, web.Application], tmp_path: Path) -> CommandLine:
    """The command in an empty folder, told of the proxy by its environment."""
    (tmp_path / "here").mkdir()
    return command_line(tmp_path / "here", front.make_url("/"))
