"""A real Prometheus scrapes a run of 200 jobs in which one instance is killed, and knows all."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from counted_run import Client, Truth, per_second
from job_client import write_templates
from prometheus_server import Prometheus, dashboard_queries, eventually, scraping
from serving import Served, serving

from comfy_proxy.embedded.process import WorkerProcess

Pair = tuple[WorkerProcess, WorkerProcess]
JOBS = 200
PROMPTS = 12
SECONDS = 0.15
WITHIN = 0.05
"""What a rate may differ from the truth."""
MAY_BE_EMPTY = {"Errors of jobs", "Answers 5xx", "Faults of the instances", "Circuits"}
"""Panels of which a query has no series before there was such a thing."""


@pytest.fixture
async def served(pair: Pair, tmp_path: Path) -> AsyncIterator[Served]:
    templates = tmp_path / "templates"
    templates.mkdir()
    async with serving(
        *(worker.host for worker in pair),
        logs=tmp_path / "logs",
        WORKFLOW_DIRECTORY=str(write_templates(templates)),
        HEALTH_CHECK_INTERVAL="1000",
    ) as proxy:
        yield proxy


@pytest.fixture
async def prometheus(served: Served, tmp_path: Path) -> AsyncIterator[Prometheus]:
    async with scraping(f"127.0.0.1:{served.port}", tmp_path / "prometheus") as running:
        yield running


async def test_prometheus_knows_what_happened(
    pair: Pair, served: Served, prometheus: Prometheus
) -> None:
    """Counters are exactly what the client counted, rates are within 5 %, the alert fires."""
    client = Client(served)
    await client.prompts(PROMPTS)
    ran = {worker.host: await ran_at(worker) for worker in pair}
    await client.get("/nowhere", expect=404)
    async with client.asking_all():
        before_kill, end = await run_jobs(client, pair[1], prometheus)
    truth, at = client.truth, await prometheus.scraped_after(time.time())

    assert truth.count("status") == {("completed",): JOBS - 10, ("failed",): 10}
    assert truth.retries >= 1
    await check_jobs(prometheus, truth, at)
    await check_prompts(prometheus, truth, ran, at)
    await check_requests(prometheus, truth, at)
    await check_log(prometheus, served, at)
    for moment, window_s in ((before_kill, 6), (end, 8)):
        await check_rates(prometheus, truth, pair, moment, window_s)
    await check_dashboard(prometheus, truth, pair, at)

    dead = pair[1].host
    await eventually(lambda: fires(prometheus, "ComfyUIInstanceDown", dead))
    assert {name for name, _ in await prometheus.firing()} <= {
        "ComfyUIInstanceDown",
        "ComfyProxyJobsFail",
    }


async def run_jobs(
    client: Client, victim: WorkerProcess, prometheus: Prometheus
) -> tuple[float, float]:
    """200 jobs, in the middle of them one instance dies; when that was, and when all had ended."""
    for number in range(JOBS):
        if number % 20 == 10:
            await client.submit("failing", salt=number)
        elif number % 20 == 0:
            await client.submit("upscale-image", scale=1)
        else:
            await client.submit("timed", salt=number, seconds=SECONDS)
    await client.until_completed(JOBS // 2)
    before_kill = await prometheus.scraped_after(time.time())
    await victim.kill()
    await client.until_completed(JOBS - 15)
    end = await prometheus.scraped_after(time.time())
    await client.all_end()
    return before_kill, end


async def ran_at(worker: WorkerProcess) -> int:
    """How many prompts an instance has run, by its own word."""
    async with aiohttp.ClientSession() as http, http.get(f"{worker.url}/history") as answer:
        return len(await answer.json())


async def check_jobs(prometheus: Prometheus, truth: Truth, at: float) -> None:
    """Accepted, how they ended and where, why they failed, and how often they were tried again."""

    async def counted(query: str, *labels: str) -> Any:
        return await prometheus.values(query, *labels, at=at)

    assert await counted("comfy_proxy_jobs_accepted_total", "type") == truth.count("type")
    for label, key in (("type", "type"), ("comfyui_instance", "comfyui_instance")):
        query = f"sum by ({label}, outcome) (comfy_proxy_jobs_finished_total)"
        assert await counted(query, label, "outcome") == truth.count(key, "status")
    assert await counted("comfy_proxy_job_errors_total", "type", "code") == {
        ("failing", "workflow_error"): 10
    }
    completed = [job for job in truth.jobs if job["status"] == "completed"]
    where = await counted(
        "sum by (type, comfyui_instance) (comfy_proxy_job_duration_seconds_count)",
        *("type", "comfyui_instance"),
    )
    assert where == Truth(answers=truth.answers, jobs=completed).count("type", "comfyui_instance")
    total_s = await prometheus.value("sum(comfy_proxy_job_duration_seconds_sum)", at)
    mine_s = sum(job["processing_time_seconds"] for job in completed)
    assert JOBS / 2 * SECONDS < total_s < mine_s  # which has the wait at the instance too
    assert await prometheus.value("sum(comfy_proxy_job_retries_total)", at) == truth.retries
    assert await counted("comfy_proxy_jobs", "state") == {}


async def check_prompts(
    prometheus: Prometheus, truth: Truth, ran: dict[str, int], at: float
) -> None:
    """Each was forwarded once; where it ran at last is where it was forwarded or moved to."""
    forwarded = await prometheus.values(
        "comfy_proxy_prompts_forwarded_total", "comfyui_instance", at=at
    )
    moved = await prometheus.values("comfy_proxy_prompts_moved_total", "comfyui_instance", at=at)
    assert sum(forwarded.values()) == len(truth.prompts) == PROMPTS
    finished = await prometheus.values(
        "comfy_proxy_prompts_finished_total", "outcome", "comfyui_instance", at=at
    )
    assert finished == {("completed", host): count for host, count in ran.items()}
    for host, count in ran.items():
        arrived = moved.get((host,), 0)
        left = sum(moved.values()) - arrived  # there are two
        assert forwarded.get((host,), 0) + arrived - left == count


async def check_requests(prometheus: Prometheus, truth: Truth, at: float) -> None:
    """By method and status: the client's, and Prometheus' own before the last one."""
    scrapes = len(await prometheus.scrapes(3600, at))
    expected = truth.answers.copy()
    expected["GET", "200"] += scrapes - 1
    told = await prometheus.values(
        "sum by (method, status) (comfy_proxy_http_requests_total)", "method", "status", at=at
    )
    assert told == expected
    assert told["GET", "404"] == 1
    assert told["GET", "101"] == 1


async def check_log(prometheus: Prometheus, served: Served, at: float) -> None:
    """As many error lines as there are in error.log; none is lost."""
    errors = await prometheus.value('comfy_proxy_log_lines_total{level="error"}', at)
    assert errors == len(served.lines("error.log")) == 10
    assert await prometheus.value("comfy_proxy_log_lines_dropped_total", at) == 0


async def check_rates(
    prometheus: Prometheus, truth: Truth, pair: Pair, at: float, window_s: int
) -> None:
    """Of three panels, over the last seconds before ``at``."""
    panels = dashboard_queries(f"{window_s}s")
    scrapes = await prometheus.scrapes(window_s, at)
    finished = await prometheus.values(panels["Jobs finished"][0], "type", "outcome", at=at)
    expected = per_second(truth.ended_at(type="timed", status="completed"), scrapes)
    assert finished["timed", "completed"] == pytest.approx(expected, rel=WITHIN)

    served = await prometheus.values(panels["Jobs an instance"][0], "comfyui_instance", at=at)
    for worker in pair:
        at_worker = truth.ended_at(comfyui_instance=worker.host)
        expected = per_second(at_worker, scrapes)
        assert served.get((worker.host,), 0) == pytest.approx(expected, rel=WITHIN)

    requests = await prometheus.values(panels["Requests"][0], "policy", at=at)
    expected = per_second(truth.asked_all_at, scrapes)
    assert requests["merged",] == pytest.approx(expected, rel=WITHIN)


async def check_dashboard(prometheus: Prometheus, truth: Truth, pair: Pair, at: float) -> None:
    """Every query is answered; those about now and about the last hour tell the truth."""
    panels = dashboard_queries("60s")
    for title, queries in panels.items():
        for query in queries:
            answer = await prometheus.series(query, at)
            assert answer or title in MAY_BE_EMPTY, query
    up = await prometheus.values(panels["Instances"][0], "comfyui_instance", at=at)
    assert up == {(pair[0].host,): 1}
    failed = await prometheus.value(panels["Jobs failed in the last hour"][0], at)
    assert failed == pytest.approx(truth.count("status")["failed",], rel=WITHIN)
    assert await prometheus.values(panels["Jobs waiting and in processing"][0], at=at) == {}


async def fires(prometheus: Prometheus, alert: str, host: str) -> bool:
    return (alert, host) in await prometheus.firing()
