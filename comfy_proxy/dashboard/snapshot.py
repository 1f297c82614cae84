"""How everything stands at one moment, as the dashboard shows it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from comfy_proxy.clock import Clock, iso
from comfy_proxy.cluster.comfyui_frames import PictureFrame
from comfy_proxy.jobs import views
from comfy_proxy.jobs.model import Job, JobStatus
from comfy_proxy.jobs.service import JobService
from comfy_proxy.metrics.last_hour import Minute
from comfy_proxy.metrics.metrics import Metrics
from comfy_proxy.metrics.records import CircuitRecord, JobRecord, Outcome, PromptEvent
from comfy_proxy.version import __version__

MAX_JOBS = 40
"""Of the unfinished ones; and so many finished ones that share what is left, ten at least."""
MIN_FINISHED = 10
MAX_ERRORS = 30


class RecentErrors:
    """The last failures in words, the newest first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._errors: deque[dict[str, str | None]] = deque(maxlen=MAX_ERRORS)

    def job_ended(self, job: JobRecord) -> None:
        if job.outcome is Outcome.FAILED:
            self._add(job.code or "internal_error", job.instance, f"{job.message} (job {job.id})")

    def circuit_changed(self, change: CircuitRecord) -> None:
        """Each failed trial opens the circuit again: only the first opening is news."""
        if change.new == "open" and change.old == "closed":
            self._add("circuit_open", change.instance, change.reason)

    def newest_first(self) -> list[dict[str, str | None]]:
        return list(self._errors)

    def _add(self, code: str, where: str | None, message: str) -> None:
        error = {"time": iso(self._clock.now()), "code": code, "where": where, "message": message}
        self._errors.appendleft(error)


def snapshot(jobs: JobService, metrics: Metrics, errors: RecentErrors) -> dict[str, Any]:
    """The ``data`` of a ``state`` event."""
    live = metrics.live()
    outcomes = metrics.jobs.outcomes()
    healthy = all(instance.healthy for instance in live.instances)
    running = list(jobs.processor.running)
    return {
        "timestamp": iso(metrics.clock.now()),
        "status": "healthy" if healthy else "degraded",
        "version": __version__,
        "uptime_seconds": round(live.uptime_s, 1),
        "instances": [
            {
                "id": one.id,
                "host": one.host,
                "status": "healthy" if one.healthy else "unhealthy",
                "circuit": one.circuit,
                "load": one.load,
                "last_success": iso(one.last_success),
                "response_time_ms": _ms(one.response_time_s),
                "connections": {"open": one.pool_open, "in_use": one.pool_in_use},
                "client_prompts": max(0, one.load - one.active_jobs),
                "jobs": [
                    {"job_id": job.id, "type": job.type, "progress_percentage": job.percentage}
                    for job in running
                    if job.instance == one.host
                ],
            }
            for one in live.instances
        ],
        "queue": {
            "pending": live.pending_jobs,
            "processing": live.processing_jobs,
            "max_concurrent_jobs": live.max_concurrent_jobs,
        },
        "totals": {
            "completed": outcomes[Outcome.COMPLETED],
            "failed": outcomes[Outcome.FAILED],
            "prompts": sum(
                count
                for (event, _), count in metrics.instances.prompts.items()
                if event is PromptEvent.FORWARDED
            ),
        },
        "jobs": _jobs(jobs),
        "last_hour": _last_hour(metrics.last_hour.minutes()),
        "errors": errors.newest_first(),
    }


def previews(jobs: JobService) -> Mapping[str, PictureFrame]:
    """What the jobs in processing show, by job id."""
    return {job.id: job.preview for job in jobs.processor.running if job.preview is not None}


def _jobs(jobs: JobService) -> list[dict[str, Any]]:
    """What is in work first, then what waits, then what ended last."""
    working = [*jobs.processor.running, *jobs.processor.waiting]
    shown = working[:MAX_JOBS]
    finished = (job for job in reversed(list(jobs.manager)) if job.finished)
    shown += islice(finished, max(MIN_FINISHED, MAX_JOBS - len(shown)))
    return [_job(job, status, jobs) for job, status in _with_status(shown, jobs)]


def _with_status(shown: Iterable[Job], jobs: JobService) -> Iterable[tuple[Job, dict[str, Any]]]:
    shown = list(shown)
    return zip(shown, views.statuses(shown, jobs), strict=True)


def _job(job: Job, status: dict[str, Any], jobs: JobService) -> dict[str, Any]:
    waiting_s = job.waiting_time_s
    if job.status is JobStatus.PENDING:
        waiting_s = jobs.clock.monotonic() - job.created_monotonic
    return {
        **{key: status[key] for key in _SHOWN},
        "waiting_seconds": None if waiting_s is None else round(waiting_s, 3),
    }


_SHOWN = (
    *("job_id", "type", "status", "progress_percentage", "processing_time_seconds"),
    *("queue_position", "comfyui_instance", "error"),
)


def _last_hour(minutes: list[Minute]) -> dict[str, list[float]]:
    """One value a minute, oldest first; times are means, 0 where nothing ended."""
    return {
        "completed": [minute.completed for minute in minutes],
        "failed": [minute.failed for minute in minutes],
        "waiting_seconds": [_mean(m.waiting_s, m.waited) for m in minutes],
        "processing_seconds": [_mean(m.processing_s, m.processed) for m in minutes],
    }


def _mean(total: float, count: int) -> float:
    return round(total / count, 3) if count else 0.0


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
