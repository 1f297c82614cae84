"""``/health``, ``/health/live`` and ``/health/ready``: from memory, whatever the instances do."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from comfy_proxy.clock import iso
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.jobs.service import JobService
from comfy_proxy.keys import CLUSTER, JOBS
from comfy_proxy.version import __version__


def routes() -> list[web.RouteDef]:
    """The routes of the contract's Status section that exist so far."""
    return [
        web.get("/health", _health),
        web.get("/health/live", _live),
        web.get("/health/ready", _ready),
    ]


async def _health(request: web.Request) -> web.Response:
    cluster, jobs = request.app[CLUSTER], request.app[JOBS]
    instances = [_instance(instance, cluster) for instance in cluster.instances]
    healthy = sum(entry["status"] == "healthy" for entry in instances)
    degraded = healthy < len(instances)
    body = {
        "status": "degraded" if degraded else "healthy",
        "timestamp": iso(cluster.clock.now()),
        "uptime_seconds": round(cluster.uptime_s, 3),
        "version": __version__,
        "comfyui_instances": {
            "total": len(instances),
            "healthy": healthy,
            "unhealthy": len(instances) - healthy,
            "instances": instances,
        },
        "job_processing": _job_processing(jobs),
    }
    return _json(body, status=503 if degraded else 200)


async def _live(request: web.Request) -> web.Response:
    return _json({"status": "alive"})


async def _ready(request: web.Request) -> web.Response:
    cluster, jobs = request.app[CLUSTER], request.app[JOBS]
    usable = any(i.healthy and (i.check_ok or i.alive_just_now) for i in cluster.instances)
    if jobs.processor.draining:
        return _json({"status": "draining"}, status=503)
    if not usable:
        return _json({"status": "no_instance"}, status=503)
    return _json({"status": "ready"})


def _instance(instance: Instance, cluster: Cluster) -> dict[str, Any]:
    pool = cluster.connections.pool_state(instance)
    response_s = instance.response_time_s
    healthy = instance.healthy and instance.last_success is not None
    return {
        "id": instance.id,
        "host": instance.host,
        "status": "healthy" if healthy else "unhealthy",
        "circuit": str(instance.breaker.state),
        "active_jobs": instance.active_jobs,
        "last_check": iso(instance.last_check),
        "last_success": iso(instance.last_success),
        "response_time_ms": None if response_s is None else round(response_s * 1000, 3),
        "consecutive_failures": instance.breaker.consecutive_failures,
        "connections": {"open": pool.open, "in_use": pool.in_use, "waiting": pool.waiting},
    }


def _job_processing(jobs: JobService) -> dict[str, Any]:
    return {
        "pending": len(jobs.processor.waiting),
        "processing": len(jobs.processor.running),
        "max_concurrent_jobs": jobs.settings.concurrent_jobs,
    }


def _json(data: Any, *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(data), status=status, content_type="application/json")
