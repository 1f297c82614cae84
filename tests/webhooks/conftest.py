"""A receiver, and proxies that send to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from job_client import JobClient, write_templates
from webhook_receiver import Receiver, hooks, receiving


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as one:
        yield one


@pytest.fixture
async def start_hooked(
    workers: Any, receiver: Receiver, start_proxy: Callable[..., Any], tmp_path: Path
) -> Callable[..., Awaitable[JobClient]]:
    """``await start_hooked(**settings)`` → a client of a proxy before two workers, with the
    templates, whose webhooks may go to ``receiver``."""
    templates = tmp_path / "templates"
    templates.mkdir()
    write_templates(templates)

    async def start(**settings: Any) -> JobClient:
        allowed = {**hooks(receiver), "workflow_directory": templates, **settings}
        return JobClient(await start_proxy(*workers, **allowed))

    return start
