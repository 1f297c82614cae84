"""What the handlers of the job API share: whom a request is about, and JSON."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from comfy_proxy.forwarded import root_path
from comfy_proxy.jobs.model import Job
from comfy_proxy.jobs.service import JobService
from comfy_proxy.keys import JOBS
from comfy_proxy.lenient_json import dumps


def find(request: web.Request) -> tuple[JobService, Job]:
    """The job that the path names; raises NotFoundError."""
    service = request.app[JOBS]
    return service, service.manager.get_job(request.match_info["job_id"])


def root_of(request: web.Request) -> str:
    """The path under which the client sees us."""
    return root_path(request, request.app[JOBS].settings)


def header_of(request: web.Request, name: str) -> str:
    """The value of a list header, its lines joined by commas (RFC 9110, 5.3)."""
    return ", ".join(request.headers.getall(name, ()))


def json_answer(
    data: Any, *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """``data`` as JSON."""
    return web.Response(
        body=dumps(data), status=status, headers=headers, content_type="application/json"
    )
