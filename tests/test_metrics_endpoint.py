"""``GET /metrics`` end to end: what it tells is what the test did, in both forms."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from job_client import JobClient, kill, until
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import METRICS

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Awaitable[JobClient]]
PLAIN = "text/plain;version=0.0.4"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"


class Samples:
    """Prometheus' view: ``samples("jobs_finished_total", outcome="failed")`` is a sum."""

    def __init__(self, text: str, parse: Any = parse_plain) -> None:
        self.all = [sample for family in parse(text) for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        found = [
            sample.value
            for sample in self.all
            if sample.name == f"comfy_proxy_{name}" and labels.items() <= sample.labels.items()
        ]
        assert found, (name, labels)
        return sum(found)


async def samples_of(jobs: JobClient) -> Samples:
    async with jobs.http.get("/metrics", headers={"Accept": PLAIN}) as answer:
        return Samples(await answer.text())


async def test_json_by_default_and_prometheus_text_if_asked(
    workers: Pair, start_jobs: Start
) -> None:
    """The content type tells which; HEAD has headers only; no other method is allowed."""
    jobs = await start_jobs(*workers)
    for accept, content_type in (
        (None, "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("text/plain", "text/plain; version=0.0.4; charset=utf-8"),
        (PLAIN, "text/plain; version=0.0.4; charset=utf-8"),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ):
        headers = {} if accept is None else {"Accept": accept}
        async with jobs.http.get("/metrics", headers=headers) as answer:
            assert (answer.status, answer.headers["Content-Type"]) == (200, content_type)
            assert answer.headers["Vary"] == "Accept"
            assert await answer.read()
        async with jobs.http.head("/metrics", headers=headers) as answer:
            assert (answer.status, await answer.read()) == (200, b"")
    async with jobs.http.get("/metrics", headers={"Accept": OPENMETRICS}) as answer:
        text = await answer.text()
    assert Samples(text, parse_openmetrics)("instance_circuit_state", state="closed") == 2
    async with jobs.http.post("/metrics") as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.long
async def test_jobs_are_counted_exactly(workers: Pair, start_jobs: Start) -> None:
    """Completed, failed, cancelled: both forms, ``/api/jobs/stats`` and ``/health`` agree."""
    # One at each instance at a time: two that are believed to be short may share one otherwise.
    jobs = await start_jobs(*workers, max_concurrent_jobs=2, max_connections_per_instance=1)
    ends = [await jobs.ends(await jobs.submit()) for _ in range(4)]
    ends += [await jobs.ends(await jobs.submit("upscale-image", scale=1)) for _ in range(2)]
    for _ in range(3):
        assert (await jobs.ends(await jobs.submit("failing")))["status"] == "failed"
    running = [await jobs.submit(seconds=60) for _ in range(2)]
    manager = jobs.service.manager
    await until(lambda: all(manager.get_job(one).executing_since for one in running))
    pending = [await jobs.submit() for _ in range(2)]
    stats = await jobs.get("/metrics")
    assert (stats["jobs"]["pending"], stats["jobs"]["processing"]) == (2, 2)
    assert (await jobs.get("/health"))["job_processing"] == {
        "pending": 2, "processing": 2, "max_concurrent_jobs": 2,
    }  # fmt: skip
    for job_id in (*pending, *running):
        await jobs.delete(job_id)
    stats = await jobs.get("/metrics")
    told = stats["jobs"]
    assert (told["total"], told["processed"], told["retries"]) == (13, 9, 0)
    assert (told["completed"], told["failed"], told["cancelled"]) == (6, 3, 4)
    assert (told["pending"], told["processing"]) == (0, 0)
    assert told["success_rate"] == pytest.approx(6 / 9, abs=1e-6)
    assert stats["errors"]["by_kind"] == {
        "workflow_error": {"count": 3, "rate": pytest.approx(3 / 9, abs=1e-6)}
    }
    assert stats["errors"]["last_hour"]["total"] == 3
    assert told["by_type"]["upscale-image"]["completed"] == 2
    assert told["by_type"]["failing"]["errors_by_kind"] == {"workflow_error": 3}
    at = Counter(end["comfyui_instance"] for end in ends)
    assert {one["host"]: one["jobs"]["completed"] for one in stats["instances"]} == {
        worker.host: at[worker.host] for worker in workers
    }
    assert told["processing_time"]["count"] == 6
    mean = sum(end["processing_time_seconds"] for end in ends) / len(ends)
    assert 0 < told["processing_time"]["mean_seconds"] <= mean  # that has the wait at the instance
    assert told["waiting_time"]["count"] == 11  # two never began

    samples = await samples_of(jobs)
    assert samples("jobs_accepted_total") == 13
    for outcome in ("completed", "failed", "cancelled"):
        assert samples("jobs_finished_total", outcome=outcome) == told[outcome]
    assert samples("jobs_finished_total", type="timed", outcome="cancelled") == 4
    assert samples("job_errors_total", type="failing", code="workflow_error") == 3
    assert samples("job_duration_seconds_count") == 6
    assert samples("job_wait_seconds_count") == 11
    assert samples("pool_wait_seconds_count") >= 9
    assert samples("jobs", state="pending") == samples("jobs", state="processing") == 0

    counted = await jobs.get("/api/jobs/stats")
    assert counted["total"] == 13
    assert counted["by_status"] == {
        "pending": 0, "processing": 0, "completed": 6, "failed": 3, "cancelled": 4,
    }  # fmt: skip
    assert counted["by_type"] == {"timed": 8, "upscale-image": 2, "failing": 3}
    assert counted["average_processing_time_seconds"] == told["processing_time"]["mean_seconds"]


@pytest.mark.long
async def test_an_instance_that_dies_is_seen_in_the_figures(
    workers: Pair, start_jobs: Start
) -> None:
    """Retries as the jobs tell their attempts, the circuit's changes, who is up, in both forms."""
    jobs = await start_jobs(*workers, health_check_interval_s=0.1)
    ids = [await jobs.submit(seconds=0.1) for _ in range(12)]
    await until(lambda: len(workers[0].executed) >= 1 and len(workers[0].started) >= 2)
    await kill(workers[0])
    ends = [await jobs.ends(job_id) for job_id in ids]
    assert {end["status"] for end in ends} == {"completed"}
    await until(lambda: not jobs.instance(workers[0]).healthy)
    retries = sum(end["attempts"] - 1 for end in ends)
    assert retries >= 1
    stats, samples = await jobs.get("/metrics"), await samples_of(jobs)
    assert stats["jobs"]["retries"] == samples("job_retries_total", type="timed") == retries
    assert stats["jobs"]["completed"] == 12
    dead, alive = stats["instances"]
    assert (dead["status"], alive["status"]) == ("unhealthy", "healthy")
    assert dead["circuit_changes"]["open"] >= 1
    assert alive["circuit_changes"] == {"closed": 0, "open": 0, "half_open": 0}
    assert samples("instance_up", comfyui_instance=workers[0].host) == 0
    assert samples("instance_up", comfyui_instance=workers[1].host) == 1
    assert samples("instance_circuit_state", comfyui_instance=workers[0].host) == 1
    assert samples(
        "instance_requests_total", comfyui_instance=workers[0].host, verdict="instance_fault"
    )
    await workers[0].restart()
    await until(lambda: jobs.instance(workers[0]).healthy)
    closed = (await jobs.get("/metrics"))["instances"][0]["circuit_changes"]["closed"]
    assert closed == 1


async def test_a_job_that_moves_is_counted_as_moved(workers: Pair, start_jobs: Start) -> None:
    """One attempt, one move: it waited behind a long job and runs where another one ended."""
    jobs = await start_jobs(*workers)
    ids = [await jobs.submit(seconds=60) for _ in range(3)]
    await until(lambda: sum(len(worker.submitted) for worker in workers) == 3)
    _, idle = sorted(workers, key=lambda worker: -len(worker.submitted))
    await until(lambda: all(worker.started for worker in workers))
    manager = jobs.service.manager
    await until(lambda: all(job.prompt_id for job in manager))
    (ended,) = [job.id for job in manager if job.prompt_id == idle.started[0]]
    await jobs.delete(ended)
    await until(lambda: len(idle.started) == 2)
    stats, samples = await jobs.get("/metrics"), await samples_of(jobs)
    assert stats["jobs"]["moves"] == samples("job_moves_total", type="timed") == 1
    assert stats["jobs"]["retries"] == stats["prompts"]["moved"] == 0
    for job_id in ids:
        if job_id != ended:
            await jobs.delete(job_id)


async def test_it_answers_while_every_instance_hangs(workers: Pair, start_jobs: Start) -> None:
    """From memory: nobody is asked, nothing is waited for."""
    jobs = await start_jobs(*workers, health_check_interval_s=0.05)
    await until(lambda: all(jobs.instance(worker).check_ok for worker in workers))
    for worker in workers:
        worker.faults.hang = ("/",)
    await until(lambda: all(worker.faults._waiters for worker in workers))
    assert (await jobs.get("/metrics"))["uptime_seconds"] > 0
    assert (await samples_of(jobs))("start_time_seconds") > 1e9
    assert all(worker.faults._waiters for worker in workers)


async def test_requests_are_counted_with_themselves_left_out(
    workers: Pair, start_jobs: Start
) -> None:
    """By policy and status; the request that asks is counted when it was answered."""
    jobs = await start_jobs(*workers)
    for path in ("/queue", "/queue", "/health", "/nowhere", "/api/jobs/none/status"):
        async with jobs.http.get(path) as answer:
            await answer.read()
    metrics = jobs.http.app[METRICS]
    await until(lambda: metrics.http.requests.total() == 5)
    samples = await samples_of(jobs)
    assert samples("http_requests_total") == 5
    assert samples("http_requests_total", policy="merged", status="200", method="GET") == 2
    assert samples("http_requests_total", policy="ours", status="404") == 1
    assert samples("http_requests_total", policy="custom", status="404") == 1
    assert samples("http_time_to_first_byte_seconds_count", policy="ours") == 2
    assert (await samples_of(jobs))("http_requests_total") == 6
    assert (await jobs.get("/metrics"))["http"]["by_policy"] == {
        "merged": 2, "ours": 4, "custom": 1,
    }  # fmt: skip


@pytest.mark.long
async def test_strange_paths_and_methods_make_no_series(workers: Pair, start_jobs: Start) -> None:
    """Whatever clients ask for, the answer does not grow (ten thousand: tests/metrics)."""
    jobs = await start_jobs(*workers)

    async def ask(number: int) -> None:
        method = "GET" if number % 3 else f"STRANGE{number}"
        async with jobs.http.request(method, f"/path-{number}?q={number}") as answer:
            await answer.read()

    async def asked(numbers: range) -> int:
        for start in numbers[::20]:
            await asyncio.gather(*(ask(number) for number in range(start, start + 20)))
        return len((await samples_of(jobs)).all)

    await samples_of(jobs)
    assert await asked(range(300, 600)) == await asked(range(600, 900))


async def test_two_applications_count_apart(workers: Pair, start_jobs: Start) -> None:
    """In one process, over the same instances; the process-wide registry has neither."""
    one, two = await start_jobs(*workers), await start_jobs(*workers)
    await one.ends(await one.submit())
    assert (await one.get("/metrics"))["jobs"]["completed"] == 1
    assert (await two.get("/metrics"))["jobs"]["completed"] == 0
    assert (await samples_of(two))("jobs_accepted_total") == 0
    assert "comfy_proxy" not in generate_latest(REGISTRY).decode()


async def test_a_hosts_own_metrics_stay_the_hosts(
    workers: Pair, start_proxy: Callable[..., Any]
) -> None:
    """Its route wins; ours are at hand for it, to be shown beside its own."""

    async def own(request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(request.app[METRICS].exposition.registry))

    app = web.Application()
    app.router.add_get("/metrics", own)
    http = await start_proxy(*workers, app=app)
    async with http.get("/metrics") as answer:
        assert "X-Request-ID" not in answer.headers
        assert Samples(await answer.text())("jobs_accepted_total") == 0


async def test_it_wants_a_key_where_keys_are_wanted(
    workers: Pair, start_proxy: Callable[..., Any]
) -> None:
    """Only the probes are open (contract, Security); Prometheus sends a bearer token."""
    http = await start_proxy(*workers, api_keys=("a-key",))
    for headers, status in (({}, 401), ({"Authorization": "Bearer a-key"}, 200)):
        async with http.get("/metrics", headers=headers) as answer:
            assert answer.status == status
