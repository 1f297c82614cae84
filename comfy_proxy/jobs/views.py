"""Jobs as the JSON of the job API: keys snake_case, times ISO 8601 UTC, durations in seconds."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import cast

from comfy_proxy.clock import iso
from comfy_proxy.cluster.planning.decision import Decision
from comfy_proxy.jobs.job_manager import elapsed_s
from comfy_proxy.jobs.media.file_info import FileInfo, PictureInfo
from comfy_proxy.jobs.model import Job, JobStatus
from comfy_proxy.jobs.queue_forecast import QueueForecast
from comfy_proxy.jobs.results.result_file import ResultFile
from comfy_proxy.jobs.service import JobService
from comfy_proxy.jobs.view_types import (
    Accepted,
    Failure,
    InputFile,
    JobInfo,
    JobResult,
    JobState,
    LegacyResult,
    Placement,
    Result,
    ResultContent,
    Status,
)

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
) -> Accepted:
    """The body of the 202 to a new job; ``root`` as in :func:`urls`.

    ``at_once``: it was accepted at this very moment, and what is known of its end is in it.
    ``tell_how``: its client has not said that it wants to wait or not, and may be an old one that
    looks for the picture here; the message tells how to get it.

    The parameters of the job are keys of it too; their names may not be others here
    (``workflows/template.py``, RESERVED_PARAMETERS).
    """
    seconds = job.told_s if at_once else service.forecast().remaining_s(job)
    text = "not known yet" if seconds is None else _in_words(seconds)
    body = {
        "job_id": job.id,
        "status": str(job.status),
        "type": job.type,
        "message": f"The {job.type} job was accepted.{_HOW if tell_how else ''}",
        "estimated_completion_time": text,
        "estimated_completion_seconds": None if seconds is None else round(seconds, 3),
        **urls(job, root),
        **job.data,
    }
    return cast(Accepted, body)


def statuses(jobs: Iterable[Job], service: JobService, root: str = "") -> list[JobState]:
    """The jobs of ``GET /api/jobs/list``, with one walk through the queue for all of them."""
    forecast = service.forecast()
    return [status(job, service, root, forecast) for job in jobs]


def status(
    job: Job, service: JobService, root: str = "", forecast: QueueForecast | None = None
) -> JobState:
    """``GET /api/jobs/{job_id}/status``; ``root`` as in :func:`urls`."""
    forecast = forecast or service.forecast()
    elapsed = elapsed_s(job, service.clock)
    waits = job.status is JobStatus.PENDING
    remaining = None if job.finished else forecast.remaining_s(job)
    has_result = job.status is JobStatus.COMPLETED
    return {
        "job_id": job.id,
        "status": _status(job),
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
        "variant": job.variant,
        "parameters": dict(job.data),
        "attempts": job.attempts,
        "error": error(job),
        "result_url": urls(job, root)["result_url"] if has_result else None,
        "results": results(job, root) if has_result and job.results is not None else None,
    }


def placement(why: Decision) -> Placement:
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


def error(job: Job) -> Failure | None:
    """``{"code", "message"}`` of a failed job."""
    return None if job.error is None else {"code": job.error.code, "message": job.error.message}


def results(job: Job, root: str = "") -> list[Result]:
    """What the job has made, in its order, each with the URL of its bytes."""
    url = urls(job, root)["result_url"]
    return [
        {
            "type": one.type,
            "name": one.name,
            "media_type": one.media_type,
            "size_bytes": one.size,
            "width": one.width,
            "height": one.height,
            "url": f"{url}/{at}",
            "etag": one.etag,
        }
        for at, one in enumerate(job.results or ())
    ]


def result(job: Job, made: ResultFile, data: bytes, root: str = "") -> JobResult:
    """``GET /api/jobs/{job_id}/result`` of a job with one result, for a client that prefers JSON.

    ``data`` are its bytes: a picture as a data URL in ``image_base64``, a text as it is, anything
    else as a data URL in ``data_base64``.
    """
    content: ResultContent = {"prompt_id": job.prompt_id}
    if made.type == "text":
        content["text"] = data.decode(errors="replace")
    elif made.media_type.startswith("image/"):
        content["image_base64"] = data_url(made, data)
    else:
        content["data_base64"] = data_url(made, data)
    return {
        "job_id": job.id,
        "status": _status(job),
        "type": job.type,
        "completed_time": iso(job.completed_at),
        "processing_time_seconds": round(job.processing_time_s or 0.0, 3),
        "result": content,
        "results": results(job, root),
    }


def legacy_result(job: Job, made: ResultFile, data: bytes, root: str = "") -> LegacyResult:
    """The synchronous answer as JSON; the keys are camelCase because the oldest clients want it.

    ``made`` is the first picture, or the first result if there is none, and ``data`` its bytes.
    """
    return {
        "imageBase64": data_url(made, data),
        "promptId": job.prompt_id,
        "jobId": job.id,
        "format": cast(str | None, job.data.get("format")),
        "crop": bool(job.data.get("crop", False)),
        "parameters": dict(job.data),
        "results": results(job, root),
    }


def info(job: Job, service: JobService, root: str = "") -> JobInfo:
    """``GET /api/jobs/{job_id}/info``: status, and what the job was given and has made.

    ``input`` and ``result`` are the first file of each, as when there was only one.
    """
    files = [(name, _file(file.info, file.size)) for name, file in job.request.files.items()]
    made = job.results[0] if job.results else None
    return {
        **status(job, service, root),
        "input": files[0][1] if files else None,
        "inputs": [{"parameter": name, **file} for name, file in files],
        "result": None
        if made is None
        else {
            "media_type": made.media_type,
            "width": made.width,
            "height": made.height,
            "size_bytes": made.size,
        },
    }


def data_url(made: ResultFile, data: bytes) -> str:
    """``data``, the bytes of ``made``, as a URL (RFC 2397)."""
    return f"data:{made.media_type};base64,{base64.b64encode(data).decode()}"


def _status(job: Job) -> Status:
    return cast(Status, str(job.status))


def _file(info: FileInfo, size: int) -> InputFile:
    if not isinstance(info, PictureInfo):
        return {"media_type": info.media_type, "size_bytes": size}
    return {
        "size_bytes": size,
        "format": info.format,
        "width": info.width,
        "height": info.height,
        "has_alpha": info.has_alpha,
    }


def _in_words(seconds: float) -> str:
    if seconds < 1:
        return "less than a second"
    if seconds < 1.5:
        return "about a second"
    if seconds < 90:
        return f"about {round(seconds)} seconds"
    return f"about {round(seconds / 60)} minutes"
