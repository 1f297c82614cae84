"""What a client is told about the time left: measured durations, cheap for a full queue."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from manual_clock import ManualClock

from comfy_proxy.jobs.estimates import Estimates
from comfy_proxy.jobs.job_processor import JobProcessor
from comfy_proxy.jobs.model import Job, JobStatus
from comfy_proxy.jobs.queue_forecast import QueueForecast
from comfy_proxy.jobs.service import JobService
from comfy_proxy.jobs.views import statuses

Make = Callable[..., Awaitable[Any]]


def test_nothing_is_known_before_the_first_job() -> None:
    """No guess is made up."""
    assert Estimates().mean("upscale-image") is None


def test_the_mean_is_the_type_s_own() -> None:
    """Types are kept apart; of one never measured nothing is known, whatever others take."""
    estimates = Estimates()
    estimates.record("a", 1.0)
    estimates.record("a", 3.0)
    estimates.record("b", 8.0)
    assert estimates.mean("a") == 2.0
    assert estimates.mean("b") == 8.0
    assert estimates.mean("new") is None
    assert estimates.mean_of_jobs() == 4.0


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


A, B = "localhost:8188", "localhost:8189"


async def running_job(
    service: JobService, make_request: Make, instance: str, name: str = "upscale-image"
) -> Job:
    job = service.manager.create_job(await make_request(name))
    return service.manager.update_job_status(job.id, JobStatus.PROCESSING, instance=instance)


def executing(service: JobService, job: Job, percentage: float = 1.0) -> None:
    service.manager.update_progress(
        job, instance=str(job.instance), prompt_id="p", percentage=percentage, current_node="1"
    )


async def test_a_job_that_executes_counts_down(
    service: JobService, make_request: Make, clock: ManualClock, queue: Queue
) -> None:
    """Its mean less what it executed so far; beyond that by its own progress, if it tells any."""
    job = await running_job(service, make_request, A)
    await clock.advance(60)  # in the instance's queue: no part of its execution
    executing(service, job, 0.0)
    queue.running = [job]
    await clock.advance(4)
    assert QueueForecast(service).remaining_s(job) == 6.0
    await clock.advance(26)
    assert QueueForecast(service).remaining_s(job) is None
    executing(service, job, 75.0)
    assert QueueForecast(service).remaining_s(job) == 10.0


async def test_a_job_queued_at_its_instance_waits_for_those_before_it(
    service: JobService, make_request: Make, clock: ManualClock, queue: Queue
) -> None:
    """An instance executes one prompt at a time; another instance's work does not count."""
    first, second, elsewhere = [
        await running_job(service, make_request, where) for where in (A, A, B)
    ]
    executing(service, second)  # whichever was placed first
    queue.running = [first, second, elsewhere]
    await clock.advance(4)
    forecast = QueueForecast(service)
    assert [forecast.remaining_s(job) for job in queue.running] == [16.0, 6.0, 10.0]
    assert forecast.queue_position(first) is None


async def test_a_waiting_job_takes_the_instance_that_is_free_first(
    service: JobService, make_request: Make, queue: Queue
) -> None:
    """As the scheduler will do it: two jobs on an idle pair run side by side."""
    queue.running = [await running_job(service, make_request, A)]
    queue.waiting = [
        service.manager.create_job(await make_request(name))
        for name in ("remove-background", "upscale-image", "upscale-image")
    ]
    forecast = QueueForecast(service)
    assert [forecast.queue_position(job) for job in queue.waiting] == [1, 2, 3]
    assert [forecast.remaining_s(job) for job in queue.waiting] == [2.0, 12.0, 20.0]


async def test_prompts_of_comfyui_s_clients_are_in_the_way(
    service: JobService, make_request: Make, queue: Queue
) -> None:
    """Those that wait or run at an instance come before; each takes what such prompts took."""
    service.processor.estimates.record(None, 3.0)
    for instance, prompts in zip(service.cluster.instances, (4, 2), strict=True):
        instance.prompts.observed(prompts)
    queue.waiting = [service.manager.create_job(await make_request())]
    assert QueueForecast(service).remaining_s(queue.waiting[0]) == 6.0 + 10.0


async def test_nothing_is_promised_while_no_instance_is_healthy(
    service: JobService, make_request: Make, queue: Queue
) -> None:
    """A job has a place in the queue, and nobody knows how long it waits there."""
    queue.running = [await running_job(service, make_request, A)]
    queue.waiting = [service.manager.create_job(await make_request())]
    for instance in service.cluster.instances:
        for _ in range(3):
            instance.fault("refused")
    forecast = QueueForecast(service)
    assert forecast.queue_position(queue.waiting[0]) == 1
    assert forecast.remaining_s(queue.waiting[0]) is None
    assert forecast.remaining_s(queue.running[0]) is None


async def test_of_an_unmeasured_type_nothing_is_promised(
    service: JobService, make_request: Make, queue: Queue
) -> None:
    """Neither for itself, but those behind it wait for it as long as for any other."""
    service.processor.estimates = Estimates()
    service.processor.estimates.record("upscale-image", 10.0)
    queue.waiting = [
        service.manager.create_job(await make_request(name))
        for name in ("remove-background", "remove-background", "upscale-image")
    ]
    forecast = QueueForecast(service)
    assert [forecast.remaining_s(job) for job in queue.waiting] == [None, None, 20.0]


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
    assert listed[-1]["estimated_remaining_time_seconds"] == 1000 * 10 / 2
    assert (queue.walks, asked) == (1, [None, "upscale-image"])


async def test_without_measurements_there_is_a_place_but_no_time(
    service: JobService, make_request: Make, queue: Queue
) -> None:
    """Before any job was measured the position is told, the seconds are null."""
    service.processor.estimates = Estimates()
    queue.waiting = [service.manager.create_job(await make_request())]
    forecast = QueueForecast(service)
    assert forecast.queue_position(queue.waiting[0]) == 1
    assert forecast.remaining_s(queue.waiting[0]) is None
