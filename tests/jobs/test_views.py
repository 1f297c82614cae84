"""Jobs as JSON: names, units and times of the contract."""

from __future__ import annotations

import base64
import re
from functools import partial
from typing import Any

import orjson
import pytest
from job_client import PNG
from made import results
from manual_clock import ManualClock

from comfy_proxy.cluster.planning.decision import Candidate, Decision
from comfy_proxy.jobs import views
from comfy_proxy.jobs.model import Job, JobFailure, JobStatus
from comfy_proxy.jobs.service import JobService

MADE = results()
STATUS_KEYS = [
    "job_id", "status", "type", "created_time", "updated_time", "started_time", "completed_time",
    "processing_time_seconds", "queue_position", "progress_percentage", "current_node",
    "estimated_remaining_time_seconds", "comfyui_instance", "placement", "prompt_id", "variant",
    "parameters", "attempts", "error", "result_url", "results",
]  # fmt: skip
ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def completed(service: JobService, job: Job, clock: ManualClock) -> Job:
    service.manager.update_job_status(job.id, JobStatus.PROCESSING, instance="gpu:8188")
    service.manager.update_progress(
        job, instance="gpu:8188", prompt_id="p-1", percentage=50.0, current_node="3"
    )
    await clock.advance(1.23456)
    return service.manager.update_job_status(job.id, JobStatus.COMPLETED, results=MADE)


def keys_of(document: Any) -> list[str]:
    """All keys, at every depth."""
    if isinstance(document, dict):
        return [*document, *(key for value in document.values() for key in keys_of(value))]
    return []


async def test_accepted(service: JobService, job: Job) -> None:
    """The 202 has the contract's fields and the parameters, filled in."""
    body = views.accepted(job, service)
    assert list(body) == [
        "job_id", "status", "type", "message", "estimated_completion_time",
        "estimated_completion_seconds", "status_url", "result_url", "events_url",
        "scale", "format",
    ]  # fmt: skip
    assert body["status"] == "pending"
    assert body["estimated_completion_seconds"] is None
    assert [body[f"{name}_url"] for name in ("status", "result", "events")] == [
        f"/api/jobs/{job.id}/{name}" for name in ("status", "result", "events")
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "less than a second"),
        (1.2, "about a second"),
        (12.3, "about 12 seconds"),
        (150.0, "about 2 minutes"),
    ],
)
async def test_the_estimate_is_a_text_too(
    service: JobService, job: Job, seconds: float, words: str
) -> None:
    """``estimated_completion_time`` is for people, ``…_seconds`` for programs."""
    job.told_s = seconds
    body = views.accepted(job, service, at_once=True)
    assert body["estimated_completion_time"] == words
    assert body["estimated_completion_seconds"] == seconds


async def test_status_of_a_pending_job(service: JobService, job: Job) -> None:
    """All fields are there from the beginning; what is not known yet is null."""
    body = views.status(job, service)
    assert list(body) == STATUS_KEYS
    assert (body["status"], body["attempts"], body["progress_percentage"]) == ("pending", 0, 0.0)
    for name in (
        *("started_time", "completed_time", "comfyui_instance", "placement", "error", "result_url"),
        *("variant", "results"),
    ):
        assert body[name] is None


async def test_status_of_a_completed_job(service: JobService, job: Job, clock: ManualClock) -> None:
    """Times are ISO 8601 UTC with milliseconds, durations float seconds."""
    body = views.status(await completed(service, job, clock), service)
    assert list(body) == STATUS_KEYS
    for name in ("created_time", "updated_time", "started_time", "completed_time"):
        assert ISO.fullmatch(body[name])
    assert body["processing_time_seconds"] == 1.235
    assert (body["status"], body["progress_percentage"]) == ("completed", 100.0)
    assert (body["comfyui_instance"], body["prompt_id"]) == ("gpu:8188", "p-1")
    assert (body["current_node"], body["estimated_remaining_time_seconds"]) == (None, None)
    assert body["result_url"] == f"/api/jobs/{job.id}/result"
    assert body["results"] == [
        {
            "type": "image", "name": "made.png", "media_type": "image/png", "size_bytes": 5,
            "width": 3, "height": 2, "url": f"{body['result_url']}/0", "etag": MADE[0].etag,
        },
    ]  # fmt: skip
    assert job.id != job.prompt_id


async def test_placement(service: JobService, job: Job) -> None:
    """Why it is where it is, in words and in the seconds of all; until it has no place any more."""
    update, candidate = service.manager.update_job_status, partial(Candidate, harm_s=0.0)
    why = Decision(
        host="gpu:8188",
        reason="its models are loaded there",
        chosen=candidate(host="gpu:8188", wait_s=0.50049, load_s=0.0, run_s=1.5),
        alternatives=(candidate(host="gpu2:8188", wait_s=0.0, load_s=4.0, run_s=1.5),),
    )
    update(job.id, JobStatus.PROCESSING, instance="gpu:8188", placement=why)
    told = views.status(job, service)["placement"]
    assert told == {
        "instance": "gpu:8188", "reason": "its models are loaded there",
        "wait_seconds": 0.5, "load_seconds": 0.0, "run_seconds": 1.5,
        "alternatives": [{"instance": "gpu2:8188", "finish_seconds": 5.5}],
    }  # fmt: skip
    progress = partial(service.manager.update_progress, job, prompt_id="p", current_node=None)
    progress(instance="gpu:8188", percentage=1.0)
    assert views.status(job, service)["placement"] == told
    moved = Decision(host="gpu2:8188", reason="it was moved there")
    progress(instance="gpu2:8188", percentage=1.0, placement=moved)
    assert views.status(job, service)["placement"] == {
        "instance": "gpu2:8188", "reason": "it was moved there", "wait_seconds": None,
        "load_seconds": None, "run_seconds": None, "alternatives": [],
    }  # fmt: skip
    update(job.id, JobStatus.PENDING)
    assert views.status(job, service)["placement"] is None


async def test_status_of_a_failed_job(service: JobService, job: Job) -> None:
    """The error has a code and a message; there is no result to go to."""
    failure = JobFailure(code="workflow_error", message="FailNode: no memory", status=502)
    service.manager.update_job_status(job.id, JobStatus.FAILED, error=failure)
    body = views.status(job, service)
    assert body["error"] == {"code": "workflow_error", "message": "FailNode: no memory"}
    assert body["result_url"] is None


async def test_result(service: JobService, job: Job, clock: ManualClock) -> None:
    """The JSON result carries the picture as a data URL and the prompt that made it."""
    body = views.result(await completed(service, job, clock), MADE[0], b"bytes")
    assert list(body) == [
        "job_id", "status", "type", "completed_time", "processing_time_seconds", "result",
        "results",
    ]  # fmt: skip
    data = "data:image/png;base64," + base64.b64encode(b"bytes").decode()
    assert body["result"] == {"image_base64": data, "prompt_id": "p-1"}
    assert body["processing_time_seconds"] == 1.235


async def test_legacy_result(service: JobService, job: Job, clock: ManualClock) -> None:
    """The old synchronous answer keeps its camelCase."""
    body = views.legacy_result(await completed(service, job, clock), MADE[0], b"bytes")
    assert list(body) == [
        "imageBase64", "promptId", "jobId", "format", "crop", "parameters", "results",
    ]  # fmt: skip
    assert (body["promptId"], body["jobId"], body["format"]) == ("p-1", job.id, "PNG")
    assert body["imageBase64"].startswith("data:image/png;base64,")


async def test_info(service: JobService, job: Job, clock: ManualClock) -> None:
    """The status, what was asked and both pictures' measures, without picture data."""
    assert views.info(job, service)["result"] is None
    body = views.info(await completed(service, job, clock), service)
    assert body["parameters"] == {"scale": 2.0, "format": "PNG"}
    assert body["input"] == {
        "format": "PNG", "width": 16, "height": 12, "has_alpha": False, "size_bytes": len(PNG),
    }  # fmt: skip
    assert body["result"] == {
        "media_type": "image/png", "width": 3, "height": 2, "size_bytes": 5,
    }  # fmt: skip
    assert b"base64" not in orjson.dumps(body)


async def test_keys_are_snake_case(service: JobService, job: Job, clock: ManualClock) -> None:
    """Every key of our own answers is snake_case; the legacy answer alone is not."""
    done = await completed(service, job, clock)
    documents = (
        views.accepted(done, service),
        views.info(done, service),
        views.result(done, MADE[0], b"bytes"),
    )
    for document in documents:
        assert all(re.fullmatch(r"[a-z][a-z0-9_]*", key) for key in keys_of(document))
