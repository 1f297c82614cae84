"""What a client is told about the time left: measured durations, cheap for a full queue."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from manual_clock import ManualClock

from comfy_proxy.jobs.estimates import Estimates
from comfy_proxy.jobs.job_processor import JobProcessor
from comfy_proxy.jobs.model import Job, JobStatus
from comfy_proxy.jobs.outlook import Outlook
from comfy_proxy.jobs.service import JobService
from comfy_proxy.jobs.views import statuses

Make = Callable[..., Awaitable[Any]]


def test_nothing_is_known_before_the_first_job() -> None:
    """No guess is made up."""
    assert Estimates().mean("upscale-image") is None


def test_the_mean_is_the_type_s_own() -> None:
    """Types are kept apart; one never measured gets the mean of all."""
    estimates = Estimates()
    estimates.record("a", 1.0)
    estimates.record("a", 3.0)
    estimates.record("b", 8.0)
    assert estimates.mean("a") == 2.0
    assert estimates.mean("b") == 8.0
    assert estimates.mean("new") == 4.0


def test_only_the_last_hundred_count() -> None:
    """A slow start, with models to be loaded, is forgotten."""
    estimates = Estimates()
    for value in [100.0] * 100 + [1.0] * 100:
        estimates.record("a", value)
    assert estimates.mean("a") == 1.0


class Queue:
    """Stands in for what the processor has: jobs set by the test."""

    def __init__(self, service: JobService, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting: list[Job] = []
        self.running: list[Job] = []
        self.walks = 0

        def waiting(processor: JobProcessor) -> list[Job]:
            self.walks += 1
            return self.waiting

        monkeypatch.setattr(JobProcessor, "waiting", property(waiting))
        monkeypatch.setattr(JobProcessor, "running", property(lambda _: self.running))
        for host, seconds in (("upscale-image", 10.0), ("remove-background", 2.0)):
            service.processor.estimates.record(host, seconds)


@pytest.fixture
def queue(service: JobService, monkeypatch: pytest.MonkeyPatch) -> Queue:
    return Queue(service, monkeypatch)


async def running_job(service: JobService, make_request: Make, instance: str) -> Job:
    job = service.manager.create_job(await make_request())
    return service.manager.update_job_status(job.id, JobStatus.PROCESSING, instance=instance)


def executing(service: JobService, job: Job) -> None:
    service.manager.update_progress(
        job, instance=str(job.instance), prompt_id="p", percentage=1.0, current_node="1"
    )


async def test_a_job_that_executes_counts_down(
    service: JobService, make_request: Make, clock: ManualClock, queue: Queue
) -> None:
    """Its mean less what it executed so far, never below zero."""
    job = await running_job(service, make_request, "a")
    await clock.advance(60)  # in the instance's queue: no part of its execution
    executing(service, job)
    queue.running = [job]
    await clock.advance(4)
    assert Outlook(service).remaining_s(job) == 6.0
    await clock.advance(60)
    assert Outlook(service).remaining_s(job) == 0.0


async def test_a_job_queued_at_its_instance_waits_for_those_before_it(
    service: JobService, make_request: Make, clock: ManualClock, queue: Queue
) -> None:
    """An instance executes one prompt at a time; another instance's work does not count."""
    first, second, elsewhere = [
        await running_job(service, make_request, where) for where in ("a", "a", "b")
    ]
    executing(service, second)  # whichever was placed first
    queue.running = [first, second, elsewhere]
    await clock.advance(4)
    outlook = Outlook(service)
    assert [outlook.remaining_s(job) for job in queue.running] == [16.0, 6.0, 10.0]
    assert outlook.queue_position(first) is None


async def test_a_waiting_job_has_a_place_and_the_time_of_all_before_it(
    service: JobService, make_request: Make, queue: Queue
) -> None:
    """The work before it is shared by the healthy instances; its own is not."""
    queue.running = [await running_job(service, make_request, "a")]
    queue.waiting = [
        service.manager.create_job(await make_request(name))
        for name in ("remove-background", "upscale-image", "upscale-image")
    ]
    outlook = Outlook(service)
    assert [outlook.queue_position(job) for job in queue.waiting] == [1, 2, 3]
    assert [outlook.remaining_s(job) for job in queue.waiting] == [7.0, 16.0, 21.0]


async def test_a_listing_walks_through_the_queue_once(
    service: JobService, make_request: Make, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand waiting jobs are listed with one walk and one mean for each type."""
    request = await make_request()
    queue.waiting = [service.manager.create_job(request) for _ in range(1000)]
    asked: list[str] = []
    mean = Estimates.mean
    monkeypatch.setattr(
        Estimates, "mean", lambda self, name: (asked.append(name), mean(self, name))[1]
    )
    listed = statuses(service.manager, service)
    assert [entry["queue_position"] for entry in listed] == list(range(1, 1001))
    assert listed[-1]["estimated_remaining_time_seconds"] == 999 * 10 / 2 + 10
    assert (queue.walks, asked) == (1, ["upscale-image"])


async def test_without_measurements_there_is_a_place_but_no_time(
    service: JobService, make_request: Make, queue: Queue
) -> None:
    """Before any job was measured the position is told, the seconds are null."""
    service.processor.estimates = Estimates()
    queue.waiting = [service.manager.create_job(await make_request())]
    outlook = Outlook(service)
    assert outlook.queue_position(queue.waiting[0]) == 1
    assert outlook.remaining_s(queue.waiting[0]) is None
