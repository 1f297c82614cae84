"""The job endpoints as a client sees them, asynchronous: 202, status, result, listings."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from job_client import PNG, JobClient, form, noise, open_picture
from made import results

from comfy_proxy.jobs.model import Job, JobFailure, JobStatus
from comfy_proxy.jobs.service import JobService

SHORTCUTS = ("remove-background", "upscale-image", "upscale-remove-bg")
RAW = {"Content-Type": "image/png"}
MADE = results(name="made.webp", media_type="image/webp")


def complete(service: JobService, job: Job) -> None:
    service.manager.update_job_status(job.id, JobStatus.PROCESSING, instance="gpu:1")
    service.manager.update_job_status(job.id, JobStatus.COMPLETED, results=MADE)


def fail(service: JobService, job: Job) -> None:
    failure = JobFailure(code="workflow_error", message="no memory", status=502)
    service.manager.update_job_status(job.id, JobStatus.FAILED, error=failure)


# --- making a job -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", [f"/api/{name}" for name in SHORTCUTS])
async def test_accepted_at_once(api_alone: Any, path: str) -> None:
    """202 with where to go, before any instance was touched (none is even there)."""
    async with api_alone.post(path, data=form()) as answer:
        body = await answer.json()
        assert answer.status == 202
        assert answer.headers["Location"] == body["status_url"]
        assert answer.headers["X-Request-ID"]
    assert (body["status"], body["type"]) == ("pending", path.rpartition("/")[2])
    assert body["format"] == "PNG"
    async with api_alone.get(body["status_url"]) as answer:
        assert (await answer.json())["job_id"] == body["job_id"]


@pytest.mark.parametrize(
    ("path", "headers", "told"),
    [
        ("/api/upscale-image", {}, True),
        ("/api/upscale-image", {"Accept": "application/json, text/plain, */*"}, True),
        ("/api/upscale-image?mode=async", {}, False),
        ("/api/upscale-image", {"Prefer": "respond-async"}, False),
        ("/api/upscale-image", {"Prefer": "wait=0"}, False),
        ("/api/async/upscale-image", {}, False),
    ],
)
async def test_who_said_nothing_is_told_where_the_result_is(
    api_alone: Any, path: str, headers: dict[str, str], told: bool
) -> None:
    """An old client looks for its picture in the 202: its author finds there what to change."""
    async with api_alone.post(path, data=form(), headers=headers) as answer:
        message = (await answer.json())["message"]
    assert answer.status == 202
    assert message.startswith("The upscale-image job was accepted.")
    for cure in ("result_url", "?mode=sync", "DEFAULT_MODE=sync"):
        assert (cure in message) is told


@pytest.mark.long
@pytest.mark.parametrize("kind", ["form", "raw", "json", "data url"])
async def test_ways_to_send_a_picture(jobs: JobClient, kind: str) -> None:
    """A form, the bare picture and JSON make the same job, with parameters of the query too."""
    text = base64.b64encode(PNG).decode()
    url = f"data:image/png;base64,{text}"
    sent: dict[str, dict[str, Any]] = {
        "form": {"data": form()},
        "raw": {"data": PNG, "headers": RAW},
        "json": {"json": {"image": text}},
        "data url": {"json": {"imageFile": url}},
    }
    async with jobs.http.post("/api/upscale-image?scale=3", **sent[kind]) as answer:
        job_id = (await answer.json())["job_id"]
    assert open_picture(await jobs.result(job_id)).size == (48, 36)


@pytest.mark.parametrize("name", SHORTCUTS)
@pytest.mark.parametrize(
    "more", [{"params": {"async": "false"}}, {"headers": {"Prefer": "wait=20"}}]
)
async def test_the_async_addresses_are_always_asynchronous(
    api_alone: Any, name: str, more: dict[str, Any]
) -> None:
    """``/api/async/…`` answers 202 whatever else is asked for."""
    more["headers"] = {"Accept": "image/png", **more.get("headers", {})}
    async with api_alone.post(f"/api/async/{name}", data=form(), **more) as answer:
        assert (answer.status, (await answer.json())["type"]) == (202, name)
        assert "Preference-Applied" not in answer.headers


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/upscale-image?scale=-1", 400, "invalid_parameter"),
        ("/api/upscale-image?crop=true", 400, "unknown_parameter"),
        ("/api/upscale-image?mode=later", 400, "invalid_parameter"),
        ("/api/upscale-image?async=maybe", 400, "invalid_parameter"),
        ("/api/workflows/nothing", 404, "unknown_workflow"),
    ],
)
async def test_a_refused_request_makes_no_job(
    service: JobService, api_alone: Any, path: str, status: int, code: str
) -> None:
    """An error is the contract's JSON with a request id, and nothing was accepted."""
    headers = {**RAW, "X-Request-ID": "mine-1"}
    async with api_alone.post(path, data=PNG, headers=headers) as answer:
        body = await answer.json()
    assert (answer.status, body["code"], body["request_id"]) == (status, code, "mine-1")
    assert set(body) == {"error", "code", "details", "request_id"}
    assert list(service.manager) == []


async def test_a_get_is_not_how_a_job_is_made(api_alone: Any) -> None:
    """Another method on our own path is 405 and names the right one."""
    async with api_alone.get("/api/upscale-image") as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")


# --- status and result ------------------------------------------------------------------------


async def test_a_job_from_start_to_end(jobs: JobClient) -> None:
    """Pending, processing, completed; which instance, which prompt, how long, where the result."""
    job_id = await jobs.submit("upscale-image", scale=2)
    end = await jobs.ends(job_id)
    assert (end["status"], end["attempts"], end["progress_percentage"]) == ("completed", 1, 100.0)
    assert end["comfyui_instance"] in {i.host for i in jobs.service.cluster.instances}
    assert re.fullmatch(r"[0-9a-f-]{36}", end["prompt_id"])
    assert end["prompt_id"] != job_id
    assert end["processing_time_seconds"] >= 0
    async with jobs.http.get(end["result_url"]) as answer:
        assert open_picture(await answer.read()).size == (32, 24)


async def test_progress_comes_from_comfyui_and_never_falls(jobs: JobClient) -> None:
    """What is shown rises with ComfyUI's events, up to 100 at the end."""
    job_id = await jobs.submit(seconds=0.3)
    job = jobs.service.manager.get_job(job_id)
    seen: list[float] = []
    while not job.finished:
        seen.append(job.percentage)
        version = job.version
        await job.wait_until(lambda job, v=version: job.version > v, jobs.service.clock)
    assert seen == sorted(seen)
    assert len({value for value in seen if 0 < value < 100}) >= 4


@pytest.mark.parametrize("what", ["status", "result", "events", "info"])
@pytest.mark.parametrize("job_id", ["nobody", "a%2Fb", "6b7d2c1e-0000-4000-8000-000000000000"])
async def test_an_unknown_job_is_404(api_alone: Any, what: str, job_id: str) -> None:
    """Unknown, forgotten and malformed ids are 404, in the contract's JSON."""
    async with api_alone.get(f"/api/jobs/{job_id}/{what}") as answer:
        assert (answer.status, (await answer.json())["code"]) == (404, "job_not_found")


async def test_the_result_is_the_picture(service: JobService, job: Job, api_alone: Any) -> None:
    """The bytes with type, length, ETag, a useful file name, and no picture for HEAD."""
    complete(service, job)
    url = f"/api/jobs/{job.id}/result"
    async with api_alone.get(url) as answer:
        assert (answer.status, await answer.read()) == (200, b"bytes")
        headers = answer.headers
    assert (headers["Content-Type"], headers["Content-Length"]) == ("image/webp", "5")
    assert headers["Content-Disposition"] == 'inline; filename="made.webp"'
    assert headers["Vary"] == "Accept"
    async with api_alone.head(url) as answer:
        assert (answer.status, await answer.read()) == (200, b"")
        assert answer.headers["Content-Length"] == "5"
        assert answer.headers["ETag"] == headers["ETag"]


@pytest.mark.parametrize(("tag", "status"), [("{}", 304), ("W/{}", 304), ("*", 304), ('"x"', 200)])
async def test_an_etag_saves_the_picture(
    service: JobService, job: Job, api_alone: Any, tag: str, status: int
) -> None:
    """Who has the picture already is told so, by the weak comparison of RFC 9110."""
    complete(service, job)
    headers = {"If-None-Match": tag.replace("{}", MADE[0].etag)}
    async with api_alone.get(f"/api/jobs/{job.id}/result", headers=headers) as answer:
        assert answer.status == status
        assert answer.headers["ETag"] == MADE[0].etag


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/json", "application/json"),
        ("application/json, text/plain, */*", "image/webp"),
        ("*/*", "image/webp"),
        ("image/*;q=0.1, application/json;q=0.2", "application/json"),
        ("text/html,image/avif,image/webp,*/*;q=0.8", "image/webp"),
    ],
)
async def test_the_result_as_json(
    service: JobService, job: Job, api_alone: Any, accept: str, kind: str
) -> None:
    """JSON for who prefers it strictly; a tie means the picture."""
    complete(service, job)
    headers = {"Accept": accept}
    async with api_alone.get(f"/api/jobs/{job.id}/result", headers=headers) as answer:
        assert (answer.status, answer.content_type) == (200, kind)
        if kind == "application/json":
            body = await answer.json()
            assert body["result"]["image_base64"] == "data:image/webp;base64,Ynl0ZXM="


async def test_a_result_too_early(job: Job, api_alone: Any) -> None:
    """409 with the status, where to ask and when to come again."""
    async with api_alone.get(f"/api/jobs/{job.id}/result") as answer:
        body = await answer.json()
    assert (answer.status, body["code"]) == (409, "job_not_ready")
    assert body["details"] == {"status": "pending", "status_url": f"/api/jobs/{job.id}/status"}
    assert int(answer.headers["Retry-After"]) >= 1


async def test_the_result_of_a_failed_job(service: JobService, job: Job, api_alone: Any) -> None:
    """409 with the reason, and no Retry-After: it will not come."""
    fail(service, job)
    async with api_alone.get(f"/api/jobs/{job.id}/result") as answer:
        body = await answer.json()
    assert (answer.status, body["code"], body["details"]["status"]) == (409, "job_failed", "failed")
    assert body["details"]["job_error"] == {"code": "workflow_error", "message": "no memory"}
    assert "Retry-After" not in answer.headers


async def test_a_dropped_result_is_gone(
    service: JobService, job: Job, api_alone: Any, make_request: Any
) -> None:
    """A picture that had to go is 410; the job's status is still told."""
    complete(service, job)
    large = results(bytes(2000))
    other = service.manager.create_job(await make_request())
    service.manager.update_job_status(other.id, JobStatus.PROCESSING)
    service.manager.update_job_status(other.id, JobStatus.COMPLETED, results=large)
    async with api_alone.get(f"/api/jobs/{job.id}/result") as answer:
        assert (answer.status, (await answer.json())["code"]) == (410, "result_dropped")
    async with api_alone.get(f"/api/jobs/{job.id}/status") as answer:
        assert (await answer.json())["status"] == "completed"


# --- listings -----------------------------------------------------------------------------------


async def test_list_and_its_filters(
    service: JobService, job: Job, api_alone: Any, make_request: Any
) -> None:
    """Jobs by status, type and instance, all filters together, without picture data."""
    done = service.manager.create_job(await make_request("remove-background"))
    complete(service, done)

    async def listed(query: str = "") -> list[str]:
        async with api_alone.get(f"/api/jobs/list{query}") as answer:
            text = await answer.text()
            assert answer.status == 200
            assert "base64" not in text
            body = json.loads(text)
            assert body["total"] == len(body["jobs"])
            return [entry["job_id"] for entry in body["jobs"]]

    assert await listed() == [job.id, done.id]
    assert await listed("?status=pending") == [job.id]
    assert await listed("?type=remove-background") == [done.id]
    assert await listed("?instance=gpu:1") == [done.id]
    assert await listed("?instance=gpu:1&status=pending") == []
    async with api_alone.get("/api/jobs/list?status=strange") as answer:
        assert (answer.status, (await answer.json())["details"]["field"]) == (400, "status")


async def test_stats_and_info(service: JobService, job: Job, api_alone: Any) -> None:
    """Numbers of all jobs, and everything about one."""
    complete(service, job)
    async with api_alone.get("/api/jobs/stats") as answer:
        assert (await answer.json())["by_status"]["completed"] == 1
    async with api_alone.get(f"/api/jobs/{job.id}/info") as answer:
        body = await answer.json()
        assert (body["parameters"]["scale"], body["input"]["width"]) == (2.0, 16)


@pytest.mark.long
async def test_a_picture_is_not_mixed_up(jobs: JobClient) -> None:
    """Of many jobs at once each gets the result of its own picture."""
    pictures = [noise() for _ in range(12)]
    ids = [await jobs.submit("upscale-image", picture, scale=1) for picture in pictures]
    for job_id, picture in zip(ids, pictures, strict=True):
        made = open_picture(await jobs.result(job_id))
        assert made.tobytes() == open_picture(picture).tobytes()
