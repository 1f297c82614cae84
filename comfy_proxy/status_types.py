"""The JSON of ``/health`` and ``/api/instances`` as types, of which OpenAPI is made."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict


class Connections(TypedDict):
    """WebSockets of jobs to one instance."""

    open: int
    in_use: int
    waiting: int


class InstanceView(TypedDict):
    """One instance for operators. ``draining``: one of them takes it out of use; ``stands_still``:
    it answers and runs nothing, so it gets no work until it was restarted; ``leaving``: it is
    removed as soon as it is empty; ``empty``: nothing waits or runs there, as far as it told."""

    id: str
    name: str | None
    host: str
    status: Literal["healthy", "unhealthy"]
    circuit: str
    draining: bool
    stands_still: bool
    leaving: bool
    empty: bool
    load: int
    active_jobs: int
    models_loaded: list[str]
    last_check: str | None
    last_success: str | None
    response_time_ms: float | None
    consecutive_failures: int
    last_error: str | None
    connections: Connections


class InstanceList(TypedDict):
    """``GET /api/instances``."""

    instances: list[InstanceView]


class Instances(TypedDict):
    """All instances, and how many of them are healthy."""

    total: int
    healthy: int
    unhealthy: int
    instances: list[InstanceView]


class JobProcessing(TypedDict):
    """How many jobs there are."""

    pending: int
    processing: int
    max_concurrent_jobs: int


class EventLoop(TypedDict):
    """How late the event loop was, at worst in the last minute."""

    worst_lag_seconds: float


class Health(TypedDict):
    """``GET /health``."""

    status: Literal["healthy", "degraded"]
    timestamp: str | None
    uptime_seconds: float
    version: str
    comfyui_instances: Instances
    job_processing: JobProcessing
    event_loop: EventLoop


class State(TypedDict):
    """One word for those who restart processes and balance load."""

    status: Literal["alive", "ready", "draining", "no_instance"]
