"""Synchronous answers: who asks for one, what comes, and what when it takes too long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from job_client import PNG, JobClient, form, noise, open_picture, until

from comfy_proxy.embedded.worker import EmbeddedWorker

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Awaitable[JobClient]]
RAW = {"Content-Type": "image/png"}


@pytest.mark.long
@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("?async=false", {"Accept": "image/png"}),
        ("?mode=sync", {"Accept": "image/*, application/json;q=0.5"}),
        ("", {"Accept": "image/png"}),
        ("", {"Accept": "image/avif,image/webp,*/*;q=0.8"}),
        ("", {"Accept": "image/png", "Prefer": "wait=20"}),
    ],
)
async def test_the_picture_itself(jobs: JobClient, query: str, headers: dict[str, str]) -> None:
    """200 with the picture for who prefers pictures."""
    sent = {**RAW, **headers}
    async with jobs.http.post(f"/api/upscale-image{query}", data=PNG, headers=sent) as answer:
        assert (answer.status, answer.content_type) == (200, "image/png")
        assert open_picture(await answer.read()).size == (32, 24)
        assert answer.headers["ETag"]
        assert answer.headers.get("Preference-Applied") == (
            "wait=20" if "Prefer" in headers else None
        )


@pytest.mark.long
@pytest.mark.parametrize("accept", ["*/*", "application/json, text/plain, */*", "application/json"])
async def test_the_legacy_json(jobs: JobClient, accept: str) -> None:
    """200 with the old camelCase answer for who does not prefer a picture."""
    headers = {"Accept": accept}
    data = form(format="jpeg", crop="false")
    async with jobs.http.post(
        "/api/remove-background?async=false", data=data, headers=headers
    ) as answer:
        body = await answer.json()
    assert answer.status == 200
    legacy = {"imageBase64", "promptId", "jobId", "format", "crop"}
    assert set(body) == {*legacy, "parameters", "results"}
    assert body["imageBase64"].startswith("data:image/jpeg;base64,")
    assert (body["format"], body["crop"]) == ("JPEG", False)
    status = await jobs.status(body["jobId"])
    assert (status["status"], status["prompt_id"]) == ("completed", body["promptId"])


async def test_default_mode_sync(start_jobs: Start, workers: Pair) -> None:
    """DEFAULT_MODE=sync is for old clients that send no mode; a new one may still say async."""
    jobs = await start_jobs(*workers, default_mode="sync")
    async with jobs.http.post("/api/upscale-image", data=form()) as answer:
        assert (answer.status, "imageBase64" in await answer.json()) == (200, True)
    for query in ("?async=true", "?mode=async"):
        async with jobs.http.post(f"/api/upscale-image{query}", data=form()) as answer:
            assert answer.status == 202
    async with jobs.http.post("/api/async/upscale-image", data=form()) as answer:
        assert answer.status == 202


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?async=true", {"mode": "sync"}),
        ("?mode=async", {"async": "no"}),
        ("?async=1", {"async": "on"}),
    ],
)
async def test_async_in_the_url_wins_over_everything(
    jobs: JobClient, query: str, field: dict[str, str]
) -> None:
    """Neither another field of the form nor Prefer nor Accept makes it wait then."""
    headers = {"Accept": "image/png", "Prefer": "wait=20"}
    data = form(**field)
    async with jobs.http.post(f"/api/upscale-image{query}", data=data, headers=headers) as answer:
        assert answer.status == 202
        assert "Preference-Applied" not in answer.headers


@pytest.mark.parametrize("name", ["async", "mode"])
async def test_an_option_with_two_values_is_refused(jobs: JobClient, name: str) -> None:
    """One in the URL, another one in the form: which is meant is not guessed."""
    query, field = {"async": ("true", "0"), "mode": ("async", "sync")}[name]
    path = f"/api/upscale-image?{name}={query}"
    async with jobs.http.post(path, data=form(**{name: field})) as answer:
        body = await answer.json()
    assert (answer.status, body["code"]) == (400, "duplicate_parameter")
    assert body["details"]["field"] == name


async def test_prefer_wait_that_runs_out(jobs: JobClient) -> None:
    """The 202 answer, with what was applied; the job goes on and completes."""
    headers = {"Prefer": "wait=0.05"}
    async with jobs.http.post(
        "/api/workflows/timed", data=form(seconds=0.4), headers=headers
    ) as answer:
        body = await answer.json()
    assert (answer.status, answer.headers["Preference-Applied"]) == (202, "wait=0.05")
    assert answer.headers["Location"] == body["status_url"]
    assert (await jobs.ends(body["job_id"]))["status"] == "completed"


async def test_prefer_in_two_lines(jobs: JobClient) -> None:
    """A list header may be cut into several lines (RFC 9110, 5.3)."""
    headers = [("Prefer", "return=minimal"), ("Prefer", "wait=20")]
    async with jobs.http.post("/api/upscale-image", data=form(), headers=headers) as answer:
        assert (answer.status, answer.headers["Preference-Applied"]) == (200, "wait=20")


async def test_a_failed_workflow_is_502(jobs: JobClient) -> None:
    """The answer has ComfyUI's own error text and the job that failed."""
    async with jobs.http.post("/api/workflows/failing?mode=sync", data=form()) as answer:
        body = await answer.json()
    assert (answer.status, body["code"]) == (502, "workflow_error")
    assert "CUDA out of memory (simulated)" in body["error"]
    assert (await jobs.status(body["details"]["job_id"]))["error"]["message"] == body["error"]


async def test_no_instance_is_503(start_jobs: Start) -> None:
    """Nobody within PENDING_TIMEOUT: 503, and the job has failed for the same reason."""
    jobs = await start_jobs("http://127.0.0.1:9", pending_timeout_s=0.05)
    async with jobs.http.post("/api/upscale-image?mode=sync", data=form()) as answer:
        body = await answer.json()
    assert (answer.status, body["code"]) == (503, "no_instance")
    assert (await jobs.status(body["details"]["job_id"]))["error"]["code"] == "no_instance"


async def test_a_prompt_that_stays_silent_is_504(start_jobs: Start, workers: Pair) -> None:
    """COMFYUI_TIMEOUT, ten times forgiven, ends a silent prompt and interrupts it there."""
    workers[0].faults.slow_node_s = 60
    jobs = await start_jobs(workers[0], comfyui_timeout_s=0.03)
    async with jobs.http.post("/api/workflows/timed?mode=sync", data=form()) as answer:
        body = await answer.json()
    assert (answer.status, body["code"]) == (504, "timeout")
    workers[0].faults.slow_node_s = 0
    assert workers[0]._life is not None
    queue = workers[0]._life.instance.queue
    await until(lambda: queue.running_id() is None)


async def test_a_cancelled_job_s_caller_hears_it(jobs: JobClient) -> None:
    """Who waits synchronously for a job that somebody deletes is told ``cancelled``."""
    waiting = asyncio.create_task(
        jobs.http.post("/api/workflows/timed?mode=sync", data=form(seconds=60)).__aenter__()
    )
    await until(lambda: list(jobs.service.manager))
    await jobs.delete(next(iter(jobs.service.manager)).id)
    answer = await waiting
    assert (answer.status, (await answer.json())["code"]) == (409, "cancelled")


async def test_a_conditional_post_gets_its_picture(jobs: JobClient) -> None:
    """If-None-Match on a POST never swallows the result (304 is for GET and HEAD)."""
    headers = {**RAW, "Accept": "image/png", "If-None-Match": "*"}
    async with jobs.http.post("/api/upscale-image", data=noise(), headers=headers) as answer:
        assert answer.status == 200
        assert await answer.read()


async def test_a_sync_caller_waits_for_an_instance(start_jobs: Start, workers: Pair) -> None:
    """With every instance down a synchronous caller waits like the job, and gets its picture."""
    await workers[0].kill()
    jobs = await start_jobs(workers[0])
    waiting: Any = asyncio.create_task(
        jobs.http.post(
            "/api/upscale-image", data=form(), headers={"Accept": "image/png"}
        ).__aenter__()
    )
    await until(lambda: jobs.service.processor.waiting)
    await workers[0].restart()
    answer = await waiting
    assert (answer.status, answer.content_type) == (200, "image/png")
