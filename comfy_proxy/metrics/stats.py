"""``/metrics`` as JSON: the counts since the start, and the state at this moment.

Keys are snake_case, seconds are floats, rates are fractions from 0 to 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_proxy.clock import iso
from comfy_proxy.metrics.durations import rounded
from comfy_proxy.metrics.job_figures import error_rate
from comfy_proxy.metrics.last_hour import Minute
from comfy_proxy.metrics.live import InstanceState, LiveState
from comfy_proxy.version import __version__

if TYPE_CHECKING:
    from comfy_proxy.metrics.metrics import Metrics


def statistics(metrics: Metrics) -> dict[str, Any]:
    """The whole document of ``GET /metrics``."""
    live, hour = metrics.live(), metrics.last_hour.total()
    return {
        "timestamp": iso(metrics.clock.now()),
        "start_time": iso(metrics.started_at),
        "uptime_seconds": round(live.uptime_s, 3),
        "version": __version__,
        "jobs": _jobs(metrics, live),
        "errors": _errors(metrics, hour),
        "last_hour": _last_hour(hour),
        "instances": [_instance(state, metrics) for state in live.instances],
        "prompts": metrics.prompts.totals(),
        "http": metrics.http.as_json(),
        "websockets": {
            "clients": live.sockets.clients,
            "frames_to_client": live.sockets.frames_to_client,
            "frames_to_instance": live.sockets.frames_to_instance,
            "previews_dropped": live.sockets.previews_dropped,
            "slow_clients": live.sockets.slow_clients,
        },
        "logs": {
            "lines": dict(metrics.logs.written) if metrics.logs else {},
            "lines_dropped": metrics.logs.dropped if metrics.logs else 0,
        },
    }


def job_statistics(metrics: Metrics) -> dict[str, Any]:
    """The document of ``GET /api/jobs/stats``: the same figures, but those of jobs only."""
    jobs, live = metrics.jobs, metrics.live()
    return {
        "total": jobs.accepted.total(),
        "by_status": {
            "pending": live.pending_jobs,
            "processing": live.processing_jobs,
            **jobs.outcomes(),
        },
        "by_type": {name: count for name, count in jobs.accepted.items() if count},
        "by_instance": {
            host: sum(jobs.outcomes(instance=host).values()) for host in metrics.instances.hosts
        },
        "average_processing_time_seconds": rounded(jobs.processing.all.mean_s),
        "average_waiting_time_seconds": rounded(jobs.waiting.all.mean_s),
        "max_concurrent_jobs": live.max_concurrent_jobs,
    }


def _jobs(metrics: Metrics, live: LiveState) -> dict[str, Any]:
    jobs = metrics.jobs
    return {
        "pending": live.pending_jobs,
        "processing": live.processing_jobs,
        "max_concurrent_jobs": live.max_concurrent_jobs,
        **jobs.totals(),
        "by_type": {name: jobs.of_type(name) for name in jobs.accepted},
    }


def _errors(metrics: Metrics, hour: Minute) -> dict[str, Any]:
    """Errors of jobs by code, since the start and in the last hour.

    ``rate`` is a code's share of the jobs that completed or failed, the cancelled ones left out.
    """
    outcomes = metrics.jobs.outcomes()
    since_start = _by_kind(outcomes["completed"], outcomes["failed"], metrics.jobs.errors_by_code())
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


def _instance(state: InstanceState, metrics: Metrics) -> dict[str, Any]:
    figures = metrics.instances
    return {
        "id": state.id,
        "host": state.host,
        "status": "healthy" if state.healthy else "unhealthy",
        "circuit": state.circuit,
        "circuit_changes": figures.circuit_json(state.host),
        "active_jobs": state.active_jobs,
        "load": state.load,
        "last_check": iso(state.last_check),
        "last_success": iso(state.last_success),
        "check_seconds": rounded(state.response_time_s),
        "jobs": metrics.jobs.at_instance(state.host),
        "prompts": metrics.prompts.at_instance(state.host),
        "requests": figures.requests_json(state.host),
        "connections": {
            "open": state.pool_open,
            "in_use": state.pool_in_use,
            "waiting": state.pool_waiting,
            "wait_time": figures.pool_waits[state.host].as_json(),
        },
    }
