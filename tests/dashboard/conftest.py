"""The dashboard before a whole proxy with two workers, and its feed alone on a manual clock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
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
