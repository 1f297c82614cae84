"""Jobs as the JSON of the job API: keys snake_case, times ISO 8601 UTC, durations in seconds."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

from comfy_proxy.clock import iso
from comfy_proxy.cluster.planning.decision import Decision
from comfy_proxy.jobs.job_manager import elapsed_s
from comfy_proxy.jobs.model import Job, JobStatus
from comfy_proxy.jobs.pictures import Picture
from comfy_proxy.jobs.queue_forecast import QueueForecast
from comfy_proxy.jobs.service import JobService

_HOW = (
    " The result is not in this answer: fetch result_url, or ask for it in the same call with"
    " ?mode=sync (DEFAULT_MODE=sync does that for every caller)."
)


def urls(job: Job, root: str = "") -> dict[str, str]:
    """Where to ask about the job, for a client that sees us under the path ``root``."""
    base = f"{root}/api/jobs/{job.id}"
    return {
        "status_url": f"{base}/status",
        "result_url": f"{base}/result",
        "events_url": f"{base}/events",
    }


def accepted(
    job: Job,
    service: JobService,
    root: str = "",
    *,
    at_once: bool = False,
    tell_how: bool = False,
) -> dict[str, Any]:
    """The body of the 202 to a new job; ``root`` as in :func:`urls`.

    ``at_once``: it was accepted at this very moment, and what is known of its end is in it.
    ``tell_how``: its client has not said that it wants to wait or not, and may be an old one that
    looks for the picture here; the message tells how to get it.

    The parameters of the job are keys of it too; their names may not be others here
    (``workflow_files.RESERVED_PARAMETERS``).
    """
    seconds = job.told_s if at_once else service.forecast().remaining_s(job)
    text = "not known yet" if seconds is None else _in_words(seconds)
    return {
        "job_id": job.id,
        "status": str(job.status),
        "type": job.type,
        "message": f"The {job.type} job was accepted.{_HOW if tell_how else ''}",
        "estimated_completion_time": text,
        "estimated_completion_seconds": None if seconds is None else round(seconds, 3),
        **urls(job, root),
        **job.data,
    }


def statuses(jobs: Iterable[Job], service: JobService, root: str = "") -> list[dict[str, Any]]:
    """The jobs of ``GET /api/jobs/list``, with one walk through the queue for all of them."""
    forecast = service.forecast()
    return [status(job, service, root, forecast) for job in jobs]


def status(
    job: Job, service: JobService, root: str = "", forecast: QueueForecast | None = None
) -> dict[str, Any]:
    """``GET /api/jobs/{job_id}/status``; ``root`` as in :func:`urls`."""
    forecast = forecast or service.forecast()
    elapsed = elapsed_s(job, service.clock)
    waits = job.status is JobStatus.PENDING
    remaining = None if job.finished else forecast.remaining_s(job)
    has_result = job.status is JobStatus.COMPLETED
    return {
        "job_id": job.id,
        "status": str(job.status),
        "type": job.type,
        "created_time": iso(job.created_at),
        "updated_time": iso(job.updated_at),
        "started_time": iso(job.started_at),
        "completed_time": iso(job.completed_at),
        "processing_time_seconds": None if elapsed is None else round(elapsed, 3),
        "queue_position": forecast.queue_position(job) if waits else None,
        "progress_percentage": job.percentage,
        "current_node": job.current_node,
        "estimated_remaining_time_seconds": None if remaining is None else round(remaining, 3),
        "comfyui_instance": job.instance,
        "placement": None if job.placement is None else placement(job.placement),
        "prompt_id": job.prompt_id,
        "attempts": job.attempts,
        "error": error(job),
        "result_url": urls(job, root)["result_url"] if has_result else None,
    }


def placement(why: Decision) -> dict[str, Any]:
    """Why a job is where it is; the seconds, as they were foreseen when that was decided, are null
    if nothing was known of its cost."""
    one = why.chosen
    return {
        "instance": why.host,
        "reason": why.reason,
        "wait_seconds": None if one is None else round(one.wait_s, 3),
        "load_seconds": None if one is None else round(one.load_s, 3),
        "run_seconds": None if one is None else round(one.run_s, 3),
        "alternatives": [
            {"instance": other.host, "finish_seconds": round(other.finish_s, 3)}
            for other in why.alternatives
        ],
    }


def error(job: Job) -> dict[str, str] | None:
    """``{"code", "message"}`` of a failed job."""
    return None if job.error is None else {"code": job.error.code, "message": job.error.message}


def result(job: Job, picture: Picture) -> dict[str, Any]:
    """``GET /api/jobs/{job_id}/result`` for a client that prefers JSON."""
    return {
        "job_id": job.id,
        "status": str(job.status),
        "type": job.type,
        "completed_time": iso(job.completed_at),
        "processing_time_seconds": round(job.processing_time_s or 0.0, 3),
        "result": {"image_base64": data_url(picture), "prompt_id": job.prompt_id},
    }


def legacy_result(job: Job, picture: Picture) -> dict[str, Any]:
    """The synchronous answer as JSON; the keys are camelCase because the oldest clients want it."""
    return {
        "imageBase64": data_url(picture),
        "promptId": job.prompt_id,
        "jobId": job.id,
        "format": job.data.get("format"),
        "crop": job.data.get("crop", False),
    }


def info(job: Job, service: JobService, root: str = "") -> dict[str, Any]:
    """``GET /api/jobs/{job_id}/info``: status, parameters and the sizes of both pictures."""
    picture = job.request.picture.info
    made = job.result
    return {
        **status(job, service, root),
        "parameters": dict(job.data),
        "input": {
            "format": picture.format,
            "width": picture.width,
            "height": picture.height,
            "has_alpha": picture.has_alpha,
            "size_bytes": job.request.picture.size,
        },
        "result": made
        and {
            "media_type": made.media_type,
            "width": made.width,
            "height": made.height,
            "size_bytes": len(made.data),
        },
    }


def data_url(picture: Picture) -> str:
    return f"data:{picture.media_type};base64,{base64.b64encode(picture.data).decode()}"


def _in_words(seconds: float) -> str:
    if seconds < 1:
        return "less than a second"
    if seconds < 90:
        return f"about {round(seconds)} seconds"
    return f"about {round(seconds / 60)} minutes"
