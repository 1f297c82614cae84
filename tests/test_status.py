"""``/health``, ``/health/live`` and ``/health/ready``: from memory, whatever the instances do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from job_client import JobClient, kill, until

from comfy_proxy import __version__
from comfy_proxy.embedded.worker import EmbeddedWorker

Pair = tuple[EmbeddedWorker, EmbeddedWorker]


@pytest.fixture
async def watched(workers: Pair, start_proxy: Callable[..., Any]) -> JobClient:
    """The proxy, after it has heard both instances; checks come often."""
    client = JobClient(
        await start_proxy(*workers, health_check_interval_s=0.05, health_check_timeout_s=2.0)
    )
    await until(lambda: all(client.instance(worker).check_ok for worker in workers))
    return client


async def status_of(client: JobClient, path: str) -> tuple[int, Any]:
    async with client.http.get(path) as answer:
        return answer.status, await answer.json()


async def test_healthy(watched: JobClient, workers: Pair) -> None:
    """200 with every field of the contract while both instances are healthy."""
    status, body = await status_of(watched, "/health")
    assert (status, body["status"], body["version"]) == (200, "healthy", __version__)
    assert set(body) == {
        "status", "timestamp", "uptime_seconds", "version", "comfyui_instances", "job_processing",
            "event_loop",
    }  # fmt: skip
    assert body["timestamp"].endswith("Z")
    assert body["uptime_seconds"] >= 0
    instances = body["comfyui_instances"]
    assert {name: instances[name] for name in ("total", "healthy", "unhealthy")} == {
        "total": 2, "healthy": 2, "unhealthy": 0,
    }  # fmt: skip
    for number, (entry, worker) in enumerate(zip(instances["instances"], workers, strict=True), 1):
        assert (entry["id"], entry["host"]) == (str(number), worker.host)
        assert (entry["status"], entry["circuit"]) == ("healthy", "closed")
        assert (entry["active_jobs"], entry["consecutive_failures"]) == (0, 0)
        assert entry["models_loaded"] == []
        assert entry["last_check"] == entry["last_success"]
        assert entry["response_time_ms"] > 0
        assert set(entry["connections"]) == {"open", "in_use", "waiting"}
    assert body["job_processing"] == {"pending": 0, "processing": 0, "max_concurrent_jobs": 6}


async def test_degraded(watched: JobClient, workers: Pair) -> None:
    """503 as soon as one instance is unhealthy, 200 again when it has returned."""
    await kill(workers[1])
    await until(lambda: not watched.instance(workers[1]).healthy)
    status, body = await status_of(watched, "/health")
    assert (status, body["status"]) == (503, "degraded")
    entry = body["comfyui_instances"]["instances"][1]
    assert entry["status"] == "unhealthy"
    assert entry["circuit"] in ("open", "half_open")
    assert entry["consecutive_failures"] >= 3
    assert entry["last_check"] >= entry["last_success"]
    assert (await status_of(watched, "/health/ready"))[0] == 200  # the other one can take jobs
    await workers[1].restart()
    await until(lambda: watched.instance(workers[1]).healthy)
    assert (await status_of(watched, "/health"))[0] == 200


async def test_never_heard_is_not_healthy(workers: Pair, start_proxy: Callable[..., Any]) -> None:
    """Before the first check has passed nothing is claimed."""
    for worker in workers:
        worker.faults.hang = ("/",)
    client = JobClient(await start_proxy(*workers))
    status, body = await status_of(client, "/health")
    assert (status, body["comfyui_instances"]["healthy"]) == (503, 0)
    assert body["comfyui_instances"]["instances"][0]["last_success"] is None
    assert (await status_of(client, "/health/ready"))[0] == 503
    assert (await status_of(client, "/health/live"))[0] == 200


async def test_ready_needs_one_instance(watched: JobClient, workers: Pair) -> None:
    """Not ready when nobody can take a job, alive all the same; ready again with one."""
    for worker in workers:
        await kill(worker)
    await until(lambda: not any(watched.instance(worker).check_ok for worker in workers))
    assert await status_of(watched, "/health/ready") == (503, {"status": "no_instance"})
    assert await status_of(watched, "/health/live") == (200, {"status": "alive"})
    await workers[0].restart()
    await until(lambda: watched.instance(workers[0]).check_ok)
    await until(lambda: watched.instance(workers[0]).healthy)
    assert await status_of(watched, "/health/ready") == (200, {"status": "ready"})


async def test_not_ready_while_draining(watched: JobClient) -> None:
    """A proxy that stops sends no more work its way, but answers."""
    await watched.service.processor.close(0)
    assert await status_of(watched, "/health/ready") == (503, {"status": "draining"})
    assert (await status_of(watched, "/health/live"))[0] == 200


async def test_instances_that_hang_do_not_hold_it_up(watched: JobClient, workers: Pair) -> None:
    """Status answers come from memory while every instance hangs, to HEAD too."""
    for worker in workers:
        worker.faults.hang = ("/",)
    await until(lambda: all(worker.faults._waiters for worker in workers))
    for path in ("/health", "/health/live", "/health/ready"):
        status, _ = await status_of(watched, path)
        assert status in (200, 503)
        async with watched.http.head(path) as answer:
            assert (answer.status, await answer.read()) == (status, b"")
    assert all(worker.faults._waiters for worker in workers)
