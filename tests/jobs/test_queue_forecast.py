"""What a client is told about the time left: what the planner expects, cheap for a full queue."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from job_client import JobClient
from manual_clock import ManualClock, settle

from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.door import Door
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.planning.work import Work
from comfy_proxy.errors import QueueFullError
from comfy_proxy.jobs.model import Job, JobStatus
from comfy_proxy.jobs.queue_forecast import KEPT_S
from comfy_proxy.jobs.runs.availability import Availability
from comfy_proxy.jobs.runs.job_run import JobRun
from comfy_proxy.jobs.service import JobService
from comfy_proxy.jobs.views import statuses

Make = Callable[..., Awaitable[Any]]
UPSCALE, REMOVE = "upscale-image", "remove-background"


def work(kind: str, *models: str) -> Work:
    return Work(
        kind=kind, fingerprint=kind, models=models, loaders=frozenset("1"), effort=1.0,
        reads=frozenset(), writes=frozenset(),
    )  # fmt: skip


class Queue:
    """The jobs of the service, with works and costs as the test says. Whoever gets a place keeps
    it, without that anything is sent."""

    def __init__(self, service: JobService, make_request: Make) -> None:
        self.service = service
        self.works = {UPSCALE: work(UPSCALE), REMOVE: work(REMOVE)}
        self.places: dict[Job, Placement] = {}
        self.plans = 0
        self._make_request = make_request

    @property
    def instances(self) -> tuple[Instance, ...]:
        return tuple(self.service.cluster.instances)

    def learn(self, name: str, seconds: float, load_s: float = 0.0) -> None:
        """… at each instance."""
        for instance in self.instances:
            one, learn = self.works[name], self.service.cluster.planner.costs.learn
            learn(instance, one, seconds, loaded=(), now=0.0)
            if load_s:
                learn(instance, one, seconds + load_s, loaded=one.models, load_s=load_s, now=0.0)

    def open(self, places: int) -> None:
        """So many jobs may have a place."""
        self.service.processor._max_concurrent = places

    async def job(self, name: str = UPSCALE, client: str = "") -> Job:
        """A new job, of which nothing has happened but its acceptance."""
        request = dataclasses.replace(await self._make_request(name), client=client)
        return self.service.accept(request, None)[0]

    async def jobs(self, *names: str) -> list[Job]:
        """… several at the same moment."""
        requests = [await self._make_request(name) for name in names]
        return [self.service.accept(request, None)[0] for request in requests]

    def begin(self, job: Job, percentage: float = 0.0) -> None:
        """ComfyUI executes it."""
        place = self.places[job]
        line = self.service.cluster.planner.lines[place.instance]
        line.begin(place.key, self.service.clock.monotonic())
        self.service.manager.update_progress(
            job, instance=place.instance.host, prompt_id="p", percentage=percentage,
            current_node="1",
        )  # fmt: skip

    def left_s(self, *jobs: Job) -> list[float | None]:
        forecast = self.service.forecast()
        return [forecast.remaining_s(job) for job in jobs]


@pytest.fixture
async def queue(
    service: JobService, make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Queue]:
    made = Queue(service, make_request)

    async def passes(client: ComfyUIClient, timeout_s: float) -> None:
        pass

    async def attempt(run: JobRun, placement: Placement) -> bytes:
        host = placement.instance.host
        service.manager.update_job_status(run.job.id, JobStatus.PROCESSING, instance=host)
        made.places[run.job] = placement
        try:
            await asyncio.Event().wait()
        finally:
            placement.release()
        return b""

    plan = Door.plan

    def counted(*arguments: Any) -> Any:
        made.plans += 1
        return plan(*arguments)

    monkeypatch.setattr(
        Availability, "work_at", lambda self, instance: made.works[self._request.workflow]
    )
    monkeypatch.setattr(ComfyUIClient, "check", passes)
    monkeypatch.setattr(JobRun, "_attempt", attempt)
    monkeypatch.setattr(Door, "plan", counted)
    service.cluster.health_checker.on_success.remove(service.cluster.capabilities.heard)
    yield made
    made.open(0)
    for job in list(service.processor.runs):
        await service.processor.cancel(job)


async def test_without_measurements_there_is_a_place_but_no_time(queue: Queue) -> None:
    """Before any work was measured the position is told, the seconds are null."""
    job = await queue.job()
    assert queue.service.forecast().queue_position(job) == 1
    assert (job.told_s, queue.left_s(job)) == (None, [None])


async def test_a_new_job_counts_before_its_task_has_run(queue: Queue) -> None:
    """Several at the same moment: each waits for those before it, at the instance that ends
    first."""
    queue.learn(UPSCALE, 10.0)
    queue.learn(REMOVE, 2.0)
    jobs = await queue.jobs(REMOVE, UPSCALE, UPSCALE)
    assert [job.told_s for job in jobs] == pytest.approx([2.0, 10.0, 12.0])
    forecast = queue.service.forecast()
    assert [forecast.queue_position(job) for job in jobs] == [1, 2, 3]
    await settle()  # now they stand at the door
    assert queue.left_s(*jobs) == pytest.approx([2.0, 10.0, 12.0])


async def test_models_that_must_be_loaded_count(queue: Queue) -> None:
    """Cold, the load is in it; the next one behind it finds them."""
    queue.works[UPSCALE] = work(UPSCALE, "large.safetensors")
    queue.learn(UPSCALE, 2.0, load_s=8.0)
    jobs = await queue.jobs(UPSCALE, UPSCALE, UPSCALE)
    assert [job.told_s for job in jobs] == pytest.approx([10.0, 10.0, 12.0])


async def test_a_job_that_executes_counts_down(queue: Queue, clock: ManualClock) -> None:
    """What it should take less what it executed so far; beyond that by its own progress, if it
    tells any."""
    queue.learn(UPSCALE, 10.0)
    queue.open(1)
    job = await queue.job()
    await settle()
    await clock.advance(60)  # in the instance's queue: no part of its execution
    assert queue.left_s(job) == [10.0]
    queue.begin(job)
    await clock.advance(4)
    assert queue.left_s(job) == [6.0]
    await clock.advance(26)
    assert queue.left_s(job) == [None]
    queue.begin(job, 75.0)
    assert queue.left_s(job) == [10.0]


async def test_a_job_at_an_instance_waits_for_those_before_it(
    queue: Queue, clock: ManualClock
) -> None:
    """An instance executes one prompt at a time; another instance's work does not count."""
    queue.learn(UPSCALE, 10.0)
    queue.open(3)
    first, second, third = await queue.jobs(UPSCALE, UPSCALE, UPSCALE)
    await settle()
    assert queue.places[first].instance is queue.places[third].instance
    queue.begin(first)
    queue.begin(second)
    await clock.advance(4)
    assert queue.left_s(first, second, third) == [6.0, 6.0, 16.0]
    assert queue.service.forecast().queue_position(third) is None


async def test_prompts_of_others_are_in_the_way(queue: Queue) -> None:
    """Those that wait or run at an instance come before; each takes what prompts take there on
    average."""
    queue.learn(UPSCALE, 10.0)
    for instance, prompts in zip(queue.instances, (4, 2), strict=True):
        instance.prompts.observed(prompts)
    assert (await queue.job()).told_s == 2 * 10.0 + 10.0


async def test_nothing_is_promised_while_no_instance_is_healthy(queue: Queue) -> None:
    """A job has a place in the queue, and nobody knows how long it waits there."""
    queue.learn(UPSCALE, 10.0)
    queue.open(1)
    placed = await queue.job()
    await settle()
    for instance in queue.instances:
        for _ in range(3):
            instance.fault("refused")
    waiting = await queue.job()
    assert queue.service.forecast().queue_position(waiting) == 1
    assert queue.left_s(placed, waiting) == [None, None]


async def test_of_an_unmeasured_sort_nothing_is_promised(queue: Queue) -> None:
    """Neither for itself, but those behind it wait for it as long as for any other."""
    queue.learn(UPSCALE, 10.0)
    jobs = await queue.jobs(REMOVE, REMOVE, UPSCALE)
    assert [job.told_s for job in jobs] == [None, None, 20.0]


async def test_what_a_job_takes_beside_its_execution_counts(queue: Queue) -> None:
    """The end of it always; the way to the instance only for one that waits for nobody there."""
    queue.learn(UPSCALE, 10.0)
    queue.service.processor.overheads.record(UPSCALE, before_s=1.0, after_s=0.5)
    jobs = await queue.jobs(UPSCALE, UPSCALE, UPSCALE)
    assert [job.told_s for job in jobs] == pytest.approx([11.5, 11.5, 20.5])
    queue.open(1)
    queue.service.cluster.scheduler.door.open()
    await settle()
    assert queue.left_s(jobs[0]) == [11.5]


async def test_after_the_execution_the_rest_is_left(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetching and converting its picture, which others do not wait for."""
    queue.learn(UPSCALE, 10.0)
    queue.service.processor.overheads.record(UPSCALE, before_s=1.0, after_s=0.5)
    job = await queue.job()
    monkeypatch.setattr(JobRun, "executed", property(lambda run: True))
    assert queue.left_s(job) == [0.5]


@pytest.mark.long
async def test_a_listing_plans_once(queue: Queue, make_request: Make) -> None:
    """A thousand waiting jobs are listed with one plan, and one walk through those beyond it."""
    queue.learn(UPSCALE, 10.0)
    request = await make_request()
    for _ in range(1000):
        queue.service.processor.submit(queue.service.manager.create_job(request))
    queue.plans = 0
    listed = statuses(queue.service.manager, queue.service)
    assert [entry["queue_position"] for entry in listed] == list(range(1, 1001))
    assert listed[-1]["estimated_remaining_time_seconds"] == 1000 * 10 / 2
    assert queue.plans == 1


async def test_jobs_that_come_together_are_planned_together(
    queue: Queue, clock: ManualClock
) -> None:
    """One behind the other costs a step, not a plan; what they are told is the same."""
    queue.learn(UPSCALE, 10.0)
    jobs = await queue.jobs(*[UPSCALE] * 100)
    assert queue.plans == 1
    assert [job.told_s for job in jobs] == queue.left_s(*jobs)
    await clock.advance(KEPT_S / 2)  # meanwhile nothing has begun to run
    late = await queue.job()
    assert late.told_s == pytest.approx(51 * 10.0 - KEPT_S / 2)
    await queue.service.processor.cancel(jobs[0])
    assert (await queue.job()).told_s == 51 * 10.0


async def test_a_job_that_has_ended_is_let_go_though_no_other_one_comes(queue: Queue) -> None:
    """With its picture; what was foreseen for the next job is out of date by then anyhow."""
    queue.learn(UPSCALE, 4)
    job = await queue.job()
    run = weakref.ref(queue.service.processor.runs[job])
    await settle()
    await queue.service.processor.cancel(job)
    await settle()
    gc.collect()
    assert run() is None


async def test_one_too_many_may_ask_again_when_a_place_is_free(
    queue: Queue, clock: ManualClock
) -> None:
    """The refusal says when the first instance ends what it runs."""
    queue.learn(UPSCALE, 60.0)
    queue.service.processor._admission.max_jobs = 1
    queue.open(2)
    for seconds in (20, 5):
        job = await queue.job()
        await settle()
        queue.begin(job)
        await clock.advance(seconds)
    await queue.job()
    with pytest.raises(QueueFullError) as refused:
        await queue.job()
    assert refused.value.retry_after_s == 35


async def test_a_client_with_few_jobs_is_told_its_turn(queue: Queue, clock: ManualClock) -> None:
    """Position and seconds are those of its turn, behind the first of who has many; what was told
    to others stays true of what waits then."""
    queue.learn(UPSCALE, 10.0)
    queue.open(2)
    many = [await queue.job(client="many") for _ in range(40)]
    await settle()
    few = [await queue.job(client="few") for _ in range(3)]
    await settle()
    for job in many[:2]:
        queue.begin(job)
    positions = [queue.service.forecast().queue_position(job) for job in few]
    assert positions == [1, 2, 4]
    assert [job.told_s for job in few] == [pytest.approx(s, abs=0.1) for s in (20, 20, 30)]
    assert queue.left_s(*few) == [pytest.approx(seconds, abs=0.1) for seconds in (20, 20, 30)]
    assert many[39].told_s == pytest.approx(200, abs=0.1)
    assert queue.left_s(many[39]) == [pytest.approx(220, abs=0.1)]


async def test_what_ran_teaches_the_next_estimate(jobs: JobClient) -> None:
    """The first job of a sort is told nothing, the next one what that took with all that is beside
    the execution; how wrong it was is counted."""
    told = []
    for _ in range(2):
        job_id = await jobs.submit("timed", seconds=0.5)
        told.append(jobs.service.manager.get_job(job_id).told_s)
        await jobs.reaches(job_id, "completed")
    overheads = jobs.service.processor.overheads
    assert overheads.before_s("timed") > 0
    assert overheads.after_s("timed") > 0
    assert told[0] is None
    assert told[1] is not None
    assert told[1] > 0.5
    stats = await jobs.get("/metrics")
    assert stats["jobs"]["by_type"]["timed"]["estimate_error"]["count"] == 1


async def test_until_its_end_it_is_told_what_is_left(jobs: JobClient) -> None:
    """While it is made, and while the instance is done and the picture is not."""
    await jobs.reaches(await jobs.submit("timed", seconds=0.5), "completed")
    service = jobs.service
    left: list[tuple[JobStatus, float | None]] = []

    def look(job: Job) -> None:
        if not job.finished:
            left.append((job.status, service.forecast().remaining_s(job)))

    service.manager.on_changed.append(look)
    job_id = await jobs.submit("timed", seconds=0.05)
    await jobs.reaches(job_id, "completed")
    placed = [seconds for status, seconds in left if status is JobStatus.PROCESSING]
    assert placed
    assert None not in placed
    assert service.forecast().remaining_s(service.manager.get_job(job_id)) is None
