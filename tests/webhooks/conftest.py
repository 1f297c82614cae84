"""A receiver, and proxies that send to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from job_client import JobClient
from webhook_receiver import Receiver, hooks, receiving


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as one:
        yield one


@pytest.fixture
async def start_hooked(
    workers: Any, receiver: Receiver, start_jobs: Callable[..., Awaitable[JobClient]]
) -> Callable[..., Awaitable[JobClient]]:
    """``await start_hooked(**settings)`` → a client of a proxy before two workers, with the
    templates, whose webhooks may go to ``receiver``."""

    async def start(**settings: Any) -> JobClient:
        return await start_jobs(*workers, **{**hooks(receiver), **settings})

    return start
