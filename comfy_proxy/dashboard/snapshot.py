"""The state of the whole application at one moment, as the dashboard shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from comfy_proxy.clock import iso
from comfy_proxy.cluster.comfyui_frames import PictureFrame
from comfy_proxy.dashboard.recent_errors import RecentErrors, shortened
from comfy_proxy.jobs import views
from comfy_proxy.jobs.model import Job
from comfy_proxy.jobs.service import JobService
from comfy_proxy.metrics.durations import rounded
from comfy_proxy.metrics.last_hour import Minute
from comfy_proxy.metrics.live import InstanceState
from comfy_proxy.metrics.metrics import Metrics
from comfy_proxy.metrics.records import Outcome, PromptEvent
from comfy_proxy.version import __version__

MAX_JOBS = 40
"""Jobs that are shown: the unfinished ones first, then the newest finished ones."""
MIN_FINISHED = 10
"""Finished jobs that are shown although unfinished ones take all of MAX_JOBS."""


def snapshot(jobs: JobService, metrics: Metrics, errors: RecentErrors) -> dict[str, Any]:
    """The ``data`` of a ``state`` event: a JSON object, times ISO 8601, durations in seconds."""
    live = metrics.live()
    outcomes, prompts = metrics.jobs.outcomes(), metrics.prompts.in_all()
    healthy = all(instance.healthy for instance in live.instances)
    running = jobs.processor.running
    return {
        "timestamp": iso(metrics.clock.now()),
        "status": "healthy" if healthy else "degraded",
        "version": __version__,
        "uptime_seconds": round(live.uptime_s, 1),
        "instances": [_instance(one, running, metrics) for one in live.instances],
        "queue": {
            "pending": live.pending_jobs,
            "processing": live.processing_jobs,
            "max_concurrent_jobs": live.max_concurrent_jobs,
        },
        "totals": {
            "completed": outcomes[Outcome.COMPLETED],
            "failed": outcomes[Outcome.FAILED],
            "cancelled": outcomes[Outcome.CANCELLED],
            "prompts_forwarded": prompts[PromptEvent.FORWARDED],
            "prompts_completed": prompts[Outcome.COMPLETED],
            "prompts_failed": prompts[Outcome.FAILED],
        },
        "jobs": _jobs(jobs, running),
        "last_hour": _last_hour(metrics.last_hour.minutes(), ends_known=metrics.prompts.ends_known),
        "errors": errors.newest_first(),
    }


def previews(jobs: JobService) -> Mapping[str, PictureFrame]:
    """The newest preview of each job in processing that has one, by job id."""
    return {job.id: job.preview for job in jobs.processor.running if job.preview is not None}


def _instance(one: InstanceState, running: list[Job], metrics: Metrics) -> dict[str, Any]:
    seconds = one.response_time_s
    return {
        "id": one.id,
        "host": one.host,
        "name": one.name,
        "draining": one.drained,
        "stands_still": one.stands_still,
        "leaving": one.leaving,
        "status": "healthy" if one.healthy else "unhealthy",
        "circuit": one.circuit,
        "load": one.load,
        "last_check": iso(one.last_check),
        "last_success": iso(one.last_success),
        "consecutive_failures": one.consecutive_failures,
        "last_error": one.last_error and shortened(one.last_error),
        "last_error_at": iso(one.last_error_at),
        "response_time_ms": None if seconds is None else round(seconds * 1000, 3),
        "connections": {"open": one.pool_open, "in_use": one.pool_in_use},
        "models_loaded": one.models_listed,
        "models_more": max(0, len(one.models_loaded) - len(one.models_listed)),
        "model_loads": metrics.loads.as_json(one.host),
        "client_prompts": one.client_prompts,
        "jobs": [_at_instance(job) for job in running if job.instance == one.host],
    }


def _at_instance(job: Job) -> dict[str, Any]:
    """A job at an instance; ``executing`` is false while it waits in the instance's own queue."""
    return {
        "job_id": job.id,
        "type": job.type,
        "progress_percentage": job.percentage,
        "executing": job.executing_since is not None,
    }


def _jobs(jobs: JobService, running: list[Job]) -> list[dict[str, Any]]:
    """The jobs in work, then those that wait, then the finished ones, the last one first.

    Their URLs are without a root path: one snapshot is sent to viewers under different paths, and
    the page reads the URLs relative to its own address.
    """
    shown = [*running, *jobs.processor.waiting][:MAX_JOBS]
    shown += islice(jobs.manager.newest_finished(), max(MIN_FINISHED, MAX_JOBS - len(shown)))
    statuses = views.statuses(shown, jobs)
    return [_job(job, status, jobs) for job, status in zip(shown, statuses, strict=True)]


def _job(job: Job, status: Mapping[str, Any], jobs: JobService) -> dict[str, Any]:
    waiting_s, execution_s = job.waiting_time_s, job.execution_time_s
    if not job.finished:
        now, began = jobs.clock.monotonic(), job.executing_since
        waiting_s = (now if began is None else began) - job.created_monotonic
        execution_s = None if began is None else now - began
    error = status["error"]
    return {
        **{key: status[key] for key in _SHOWN},
        "error": error and {**error, "message": shortened(error["message"])},
        "placement_reason": job.placement and job.placement.reason,
        "waiting_seconds": rounded(waiting_s),
        "execution_seconds": rounded(execution_s),
    }


_SHOWN = (
    *("job_id", "type", "status", "progress_percentage", "attempts"),
    *("queue_position", "comfyui_instance", "result_url"),
)


def _last_hour(minutes: list[Minute], *, ends_known: bool) -> dict[str, Sequence[float | None]]:
    """Sixty values each, oldest minute first; times are means, None where nothing ended.

    ``prompts`` are clients' prompts that completed, or those forwarded if ends are not known.
    """
    return {
        "completed": [minute.completed for minute in minutes],
        "failed": [minute.failed for minute in minutes],
        "prompts": [one.prompts_completed if ends_known else one.prompts for one in minutes],
        "prompts_failed": [minute.prompts_failed for minute in minutes],
        "waiting_seconds": [minute.waiting_mean_s for minute in minutes],
        "processing_seconds": [minute.processing_mean_s for minute in minutes],
    }
