"""``GET /dashboard`` (the page) and ``GET /dashboard/events`` (its Server-Sent Events)."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

from aiohttp import web

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.dashboard.feed import Feed
from comfy_proxy.dashboard.recent_errors import RecentErrors
from comfy_proxy.dashboard.snapshot import previews, snapshot
from comfy_proxy.keys import CLUSTER, DASHBOARD, JOBS, METRICS, REQUEST_OBSERVERS
from comfy_proxy.observation import job_record

_PAGE = files("comfy_proxy.dashboard").joinpath("page.html").read_bytes()


def _digest(element: str) -> str:
    """The hash of the page's one ``<style>`` or ``<script>``, for its policy (CSP 3, 2.3.1).

    So these run and no other script does, whatever a message or a name puts into the page.
    """
    (text,) = re.findall(rb"<%b>(.*?)</%b>" % ((element.encode(),) * 2), _PAGE, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"


_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src {_digest('style')}; script-src {_digest('script')}; "
        "connect-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


def routes() -> list[web.RouteDef]:
    return [
        web.get("/dashboard", _page),
        web.get("/dashboard/events", _events, allow_head=False),
    ]


def make_feed(app: web.Application) -> Feed:
    """The feed of ``app``, called by everything that changes what the page shows."""
    cluster, jobs, metrics = app[CLUSTER], app[JOBS], app[METRICS]
    errors = RecentErrors(cluster.clock)
    feed = Feed(
        lambda: snapshot(jobs, metrics, errors), lambda: previews(jobs), clock=cluster.clock
    )
    jobs.manager.on_changed.append(feed.changed)
    jobs.manager.on_finished.append(lambda job: errors.job_ended(job_record(job)))
    app[REQUEST_OBSERVERS].append(errors.request_answered)
    cluster.on_prompt_end += (errors.prompt_ended, feed.changed)
    errors.on_change.append(feed.changed)
    cluster.scheduler.on_change.append(feed.changed)
    cluster.experience.on_run.append(feed.changed)
    cluster.drains.on_change.append(feed.changed)

    def joined(instance: Instance) -> None:
        instance.prompts.on_load.append(feed.changed)
        instance.on_circuit.append(errors.circuit_changed)
        instance.on_circuit.append(feed.changed)
        feed.changed()

    cluster.instances.each(joined)
    cluster.instances.on_removed.append(feed.changed)
    return feed


async def _page(request: web.Request) -> web.Response:
    return web.Response(body=_PAGE, headers=_HEADERS)


async def _events(request: web.Request) -> web.StreamResponse:
    return await request.config_dict[DASHBOARD].serve(request)
