"""Which new jobs may wait: so many, so many bytes, and room for those who have few."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from job_client import PNG
from manual_clock import ManualClock, settle

from comfy_proxy.errors import QueueFullError
from comfy_proxy.jobs.model import Job
from comfy_proxy.jobs.requests.input_file import FEW_BYTES, MEMORY_BYTES
from comfy_proxy.jobs.service import JobService

Make = Callable[..., Awaitable[Any]]


class Clients:
    """Jobs of several clients, none of which gets a place."""

    def __init__(self, service: JobService, make: Make) -> None:
        self.service = service
        self._make = make
        self._number = 0

    async def job(self, client: str) -> Job:
        self._number += 1
        request = await self._make(fingerprint=str(self._number))
        job, _ = self.service.accept(dataclasses.replace(request, client=client), None)
        return job

    async def refused_s(self, client: str) -> int:
        """The Retry-After of one more job."""
        with pytest.raises(QueueFullError) as refused:
            await self.job(client)
        assert refused.value.retry_after_s is not None
        return refused.value.retry_after_s


@pytest.fixture
async def clients(service: JobService, make_request: Make) -> AsyncIterator[Clients]:
    yield Clients(service, make_request)
    await service.processor.close(0)


async def test_who_fills_the_queue_keeps_nobody_with_few_jobs_out(clients: Clients) -> None:
    """MAX_PENDING_JOBS is for all; a tenth more is for clients that have few here."""
    clients.service._admission.max_jobs = 100
    for _ in range(100):
        await clients.job("a")
    await clients.refused_s("a")
    for _ in range(2):
        await clients.job("b")
    await clients.refused_s("b")
    for number in range(8):
        await clients.job(f"one {number}")
    await clients.refused_s("one more")


async def test_the_rate_is_measured_by_the_jobs_that_leave(
    clients: Clients, clock: ManualClock
) -> None:
    """One in three seconds: who is refused is told that, the next one twice that."""
    clients.service._admission.max_jobs = 8
    jobs = [await clients.job("a") for _ in range(8)]
    for job in jobs[:5]:
        await clock.advance(3.0)
        await clients.service.cancel(job)
        await clients.job("a")
    assert [await clients.refused_s("a") for _ in range(3)] == [3, 6, 9]


async def test_pictures_in_sum_are_bounded(clients: Clients) -> None:
    """MAX_SPOOL_SIZE: one more is refused until another job has ended. One alone is let in."""
    clients.service._admission._max_bytes = len(PNG) + 1
    job = await clients.job("a")
    await clients.refused_s("b")
    await clients.service.cancel(job)
    await clients.job("c")


async def test_many_pictures_are_not_kept_in_memory(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the sum of all those in memory only the small ones are."""
    admission = clients.service._admission
    assert admission.memory_bytes() == MEMORY_BYTES
    monkeypatch.setattr("comfy_proxy.jobs.job_admission.SUM_BYTES", len(PNG))
    job = await clients.job("a")
    assert admission.memory_bytes() == FEW_BYTES
    await clients.service.cancel(job)
    await settle()
    assert admission.memory_bytes() == MEMORY_BYTES


async def test_of_few_places_none_is_kept(clients: Clients, clock: ManualClock) -> None:
    """Whoever comes first has the place that is free, though another one was told to come."""
    clients.service._admission.max_jobs = 2
    jobs = [await clients.job("a") for _ in range(2)]
    seconds = await clients.refused_s("b")
    await clock.advance(seconds)
    await clients.service.cancel(jobs[0])
    await clients.job("c")
