"""Where an application keeps what belongs to it: aiohttp AppKeys, no module state."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from comfy_proxy.cluster.cluster import Cluster
    from comfy_proxy.comfy_api.service import ComfyApi
    from comfy_proxy.dashboard.feed import Feed
    from comfy_proxy.gateway.gateway import Gateway
    from comfy_proxy.jobs.service import JobService
    from comfy_proxy.logs import AppLogs
    from comfy_proxy.loop_watch import LoopWatch
    from comfy_proxy.metrics import Metrics
    from comfy_proxy.metrics.records import RequestRecord
    from comfy_proxy.settings import Settings
    from comfy_proxy.shutdown import Shutdown
    from comfy_proxy.state.state import State
    from comfy_proxy.webhooks.webhooks import Webhooks

SETTINGS: web.AppKey[Settings] = web.AppKey("comfy_proxy.settings")
CLUSTER: web.AppKey[Cluster] = web.AppKey("comfy_proxy.cluster")
GATEWAY: web.AppKey[Gateway] = web.AppKey("comfy_proxy.gateway")
JOBS: web.AppKey[JobService] = web.AppKey("comfy_proxy.jobs")
COMFY_API: web.AppKey[ComfyApi] = web.AppKey("comfy_proxy.comfy_api")
METRICS: web.AppKey[Metrics] = web.AppKey("comfy_proxy.metrics")
LOGS: web.AppKey[AppLogs] = web.AppKey("comfy_proxy.logs")
SHUTDOWN: web.AppKey[Shutdown] = web.AppKey("comfy_proxy.shutdown")
STATE: web.AppKey[State] = web.AppKey("comfy_proxy.state")
WEBHOOKS: web.AppKey[Webhooks] = web.AppKey("comfy_proxy.webhooks")
LOOP_WATCH: web.AppKey[LoopWatch] = web.AppKey("comfy_proxy.loop_watch")
DASHBOARD: web.AppKey[Feed] = web.AppKey("comfy_proxy.dashboard")
REQUEST_OBSERVERS: web.AppKey[list[Callable[[RequestRecord], None]]] = web.AppKey(
    "comfy_proxy.request_observers"
)
"""Told of each request that is over, the host's own routes apart."""
