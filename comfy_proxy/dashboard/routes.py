"""``GET /dashboard`` and ``GET /dashboard/events``."""

from __future__ import annotations

from importlib.resources import files

from aiohttp import web

from comfy_proxy.dashboard.feed import Feed
from comfy_proxy.dashboard.snapshot import RecentErrors, previews, snapshot
from comfy_proxy.keys import CLUSTER, DASHBOARD, JOBS, METRICS
from comfy_proxy.observation import job_record

_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        "connect-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
}
_PAGE = files("comfy_proxy.dashboard").joinpath("page.html").read_bytes()


def routes() -> list[web.RouteDef]:
    return [web.get("/dashboard", _page), web.get("/dashboard/events", _events)]


def feed(app: web.Application) -> Feed:
    """What the page shows, listening to everything that changes it."""
    cluster, jobs, metrics = app[CLUSTER], app[JOBS], app[METRICS]
    errors = RecentErrors(cluster.clock)
    feed = Feed(
        lambda: snapshot(jobs, metrics, errors), lambda: previews(jobs), clock=cluster.clock
    )
    jobs.manager.on_changed.append(feed.changed)
    jobs.manager.on_finished.append(lambda job: errors.job_ended(job_record(job)))
    for instance in cluster.instances:
        instance.on_load.append(feed.changed)
        instance.on_circuit.append(errors.circuit_changed)
        instance.on_circuit.append(feed.changed)
    return feed


async def _page(request: web.Request) -> web.Response:
    return web.Response(body=_PAGE, headers=_HEADERS)


async def _events(request: web.Request) -> web.StreamResponse:
    return await request.config_dict[DASHBOARD].serve(request)
