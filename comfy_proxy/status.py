"""``/health``, ``/health/live``, ``/health/ready`` and ``/metrics``, all answered from memory.

No instance is asked, so they answer at once while one hangs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aiohttp import hdrs, web

from comfy_proxy.clock import iso
from comfy_proxy.cluster.instance import takes_work
from comfy_proxy.keys import CLUSTER, JOBS, LOOP_WATCH, METRICS
from comfy_proxy.lenient_json import dumps
from comfy_proxy.metrics.exposition import prometheus_format
from comfy_proxy.metrics.live import InstanceState
from comfy_proxy.openapi.operation import Answer, Handler, Operation, json, routes_of
from comfy_proxy.status_types import Health, InstanceView, State
from comfy_proxy.version import __version__


def routes() -> list[web.RouteDef]:
    """Routes for those who watch the proxy."""
    return routes_of(OPERATIONS)


async def _health(request: web.Request) -> web.Response:
    """How each instance is: 200, or 503 ``degraded`` while one of them is unhealthy."""
    metrics = request.app[METRICS]
    live = metrics.live()
    healthy = sum(instance.healthy for instance in live.instances)
    degraded = healthy < len(live.instances)
    body: Health = {
        "status": "degraded" if degraded else "healthy",
        "timestamp": iso(metrics.clock.now()),
        "uptime_seconds": round(live.uptime_s, 3),
        "version": __version__,
        "comfyui_instances": {
            "total": len(live.instances),
            "healthy": healthy,
            "unhealthy": len(live.instances) - healthy,
            "instances": [instance_view(instance) for instance in live.instances],
        },
        "job_processing": {
            "pending": live.pending_jobs,
            "processing": live.processing_jobs,
            "max_concurrent_jobs": live.max_concurrent_jobs,
        },
        # Of the last minute: for so long nobody was answered.
        "event_loop": {"worst_lag_seconds": round(request.app[LOOP_WATCH].worst_s(), 4)},
    }
    return _json(body, status=503 if degraded else 200)


async def _metrics(request: web.Request) -> web.Response:
    """All figures as JSON, or in the format of Prometheus that ``Accept`` asks for."""
    metrics = request.app[METRICS]
    accept = ",".join(request.headers.getall(hdrs.ACCEPT, ()))
    content_type = prometheus_format(accept)
    if content_type is None:
        answer = _json(metrics.get_stats())
    else:
        text = metrics.exposition.render(content_type)
        answer = web.Response(body=text, headers={hdrs.CONTENT_TYPE: content_type})
    answer.headers[hdrs.VARY] = hdrs.ACCEPT
    return answer


async def _live(request: web.Request) -> web.Response:
    """200 as long as the process answers at all: for restarts."""
    return _json({"status": "alive"})


async def _ready(request: web.Request) -> web.Response:
    """200 if an instance can take work now, 503 if none can or the proxy is stopping."""
    cluster, jobs = request.app[CLUSTER], request.app[JOBS]
    # A busy instance fails checks although it works: a frame from it proves that
    # (PROTOCOL.md trap 8).
    usable = any(
        takes_work(i) and (i.check_ok or i.signs.alive_just_now) for i in cluster.instances
    )
    if jobs.processor.draining:
        return _json({"status": "draining"}, status=503)
    if not usable:
        return _json({"status": "no_instance"}, status=503)
    return _json({"status": "ready"})


def instance_view(instance: InstanceState) -> InstanceView:
    """One instance for operators. ``draining``: one of them takes it out of use; ``stands_still``:
    it answers and runs nothing, so it gets no work until it was restarted; ``leaving``: it is
    removed as soon as it is empty; ``empty``: nothing waits or runs there, as far as it told."""
    response_s = instance.response_time_s
    return {
        "id": instance.id,
        "name": instance.name,
        "host": instance.host,
        "status": "healthy" if instance.healthy else "unhealthy",
        "circuit": instance.circuit,
        "draining": instance.drained,
        "stands_still": instance.stands_still,
        "leaving": instance.leaving,
        "empty": instance.load == 0,
        "load": instance.load,
        "active_jobs": instance.active_jobs,
        "models_loaded": instance.models_listed,
        "last_check": iso(instance.last_check),
        "last_success": iso(instance.last_success),
        "response_time_ms": None if response_s is None else round(response_s * 1000, 3),
        "consecutive_failures": instance.consecutive_failures,
        "last_error": instance.last_error,
        "connections": {
            "open": instance.pool_open,
            "in_use": instance.pool_in_use,
            "waiting": instance.pool_waiting,
        },
    }


def _json(data: Any, *, status: int = 200) -> web.Response:
    return web.Response(body=dumps(data), status=status, content_type="application/json")


def _row(path: str, handler: Handler, summary: str, answers: Mapping[int, Answer]) -> Operation:
    return Operation(
        method="GET", path=path, handler=handler, tag="status", summary=summary, answers=answers
    )


_FIGURES = Answer(
    description="all figures; Prometheus' text if `Accept` asks for it",
    content={
        "application/json": dict[str, Any],
        "text/plain": None,
        "application/openmetrics-text": None,
    },
)
OPERATIONS: Final[tuple[Operation, ...]] = (
    _row(
        "/health",
        _health,
        "How each instance is",
        {200: json(Health, "all healthy"), 503: json(Health, "one of them is not")},
    ),
    _row("/health/live", _live, "The process answers", {200: json(State, "it does")}),
    _row(
        "/health/ready",
        _ready,
        "An instance can take work",
        {200: json(State, "one can"), 503: json(State, "none can, or the proxy is stopping")},
    ),
    _row("/metrics", _metrics, "Figures", {200: _FIGURES}),
)
