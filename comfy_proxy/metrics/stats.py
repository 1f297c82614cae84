"""``/metrics`` as JSON: the counts since the start, and the state at this moment.

Keys are snake_case, seconds are floats, rates are fractions from 0 to 1.
"""

from __future__ import annotations

from typing import Any

from comfy_proxy.clock import iso
from comfy_proxy.metrics.durations import rounded
from comfy_proxy.metrics.figures import Figures
from comfy_proxy.metrics.job_figures import error_rate
from comfy_proxy.metrics.last_hour import Minute
from comfy_proxy.metrics.live import InstanceState, LiveState
from comfy_proxy.version import __version__


def statistics(figures: Figures) -> dict[str, Any]:
    """The whole document of ``GET /metrics``."""
    live, hour = figures.live(), figures.last_hour.total()
    return {
        "timestamp": iso(figures.clock.now()),
        "start_time": iso(figures.started_at),
        "uptime_seconds": round(live.uptime_s, 3),
        "version": __version__,
        "jobs": _jobs(figures, live),
        "errors": _errors(figures, hour),
        "last_hour": _last_hour(hour),
        "instances": [_instance(state, figures) for state in live.instances],
        "prompts": figures.prompts.totals(),
        "http": figures.http.as_json(),
        "websockets": {
            "clients": live.sockets.clients,
            "frames_to_client": live.sockets.frames_to_client,
            "frames_to_instance": live.sockets.frames_to_instance,
            "previews_dropped": live.sockets.previews_dropped,
            "slow_clients": live.sockets.slow_clients,
        },
        "webhooks": figures.webhooks.as_json(live.webhooks_pending),
        "logs": {
            "lines": dict(figures.logs.written) if figures.logs else {},
            "lines_dropped": figures.logs.dropped if figures.logs else 0,
        },
    }


def job_statistics(figures: Figures) -> dict[str, Any]:
    """The document of ``GET /api/jobs/stats``: the same figures, but those of jobs only."""
    jobs, live = figures.jobs, figures.live()
    return {
        "total": jobs.accepted.total(),
        "by_status": {
            "pending": live.pending_jobs,
            "processing": live.processing_jobs,
            **jobs.outcomes(),
        },
        "by_type": {name: count for name, count in jobs.accepted.items() if count},
        "by_instance": {
            host: sum(jobs.outcomes_at(host).values()) for host in figures.instances.hosts
        },
        "average_processing_time_seconds": rounded(jobs.processing.all.mean_s),
        "average_waiting_time_seconds": rounded(jobs.waiting.all.mean_s),
        "max_concurrent_jobs": live.max_concurrent_jobs,
    }


def _jobs(figures: Figures, live: LiveState) -> dict[str, Any]:
    jobs = figures.jobs
    return {
        "pending": live.pending_jobs,
        "processing": live.processing_jobs,
        "max_concurrent_jobs": live.max_concurrent_jobs,
        **jobs.totals(),
        "by_type": {name: jobs.of_type(name) for name in jobs.accepted},
    }


def _errors(figures: Figures, hour: Minute) -> dict[str, Any]:
    """Errors of jobs by code, since the start and in the last hour.

    ``rate`` is a code's share of the jobs that completed or failed, the cancelled ones left out.
    """
    outcomes = figures.jobs.outcomes()
    since_start = _by_kind(outcomes["completed"], outcomes["failed"], figures.jobs.errors_by_code())
    return {**since_start, "last_hour": _by_kind(hour.completed, hour.failed, hour.errors)}


def _by_kind(completed: int, failed: int, errors: dict[str, int]) -> dict[str, Any]:
    return {
        "total": failed,
        "rate": error_rate(completed, failed),
        "by_kind": {
            code: {"count": count, "rate": round(count / (completed + failed), 6)}
            for code, count in errors.items()
        },
    }


def _last_hour(hour: Minute) -> dict[str, Any]:
    return {
        "since": iso(hour.began_at),
        "completed": hour.completed,
        "failed": hour.failed,
        "cancelled": hour.cancelled,
        "processing_time_mean_seconds": hour.processing_mean_s,
        "waiting_time_mean_seconds": hour.waiting_mean_s,
        "prompts": hour.prompts,
        "prompts_completed": hour.prompts_completed,
        "prompts_failed": hour.prompts_failed,
        "requests": hour.requests,
        "requests_failed": hour.faults,
    }


def _instance(state: InstanceState, figures: Figures) -> dict[str, Any]:
    at_instances = figures.instances
    return {
        "id": state.id,
        "host": state.host,
        "status": "healthy" if state.healthy else "unhealthy",
        "circuit": state.circuit,
        "circuit_changes": at_instances.circuit_json(state.host),
        "active_jobs": state.active_jobs,
        "load": state.load,
        "models_loaded": state.models_listed,
        "model_loads": figures.loads.as_json(state.host),
        "last_check": iso(state.last_check),
        "last_success": iso(state.last_success),
        "check_seconds": rounded(state.response_time_s),
        "jobs": figures.jobs.at_instance(state.host),
        "prompts": figures.prompts.at_instance(state.host),
        "requests": at_instances.requests_json(state.host),
        "connections": {
            "open": state.pool_open,
            "in_use": state.pool_in_use,
            "waiting": state.pool_waiting,
            "wait_time": at_instances.pool_waits[state.host].as_json(),
        },
    }
