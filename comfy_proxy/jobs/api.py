"""The job endpoints: a request in, JSON or a picture out.

ComfyUI has ``/api/jobs/{id}`` and ``/api/jobs/{id}/cancel`` too: for an id that is not ours these
handlers raise NotOursError, and the gateway forwards the request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from comfy_proxy.errors import InvalidFieldError, NotOursError
from comfy_proxy.jobs import views
from comfy_proxy.jobs.answers import find, header_of, json_answer, root_of
from comfy_proxy.jobs.events import stream_events
from comfy_proxy.jobs.model import Job, JobStatus
from comfy_proxy.jobs.requests.negotiation import (
    AnswerMode,
    answer_mode,
    truth,
    wait_seconds,
    waits_for_change,
)
from comfy_proxy.jobs.result_api import synchronous_answer
from comfy_proxy.jobs.service import JobService
from comfy_proxy.keys import JOBS, METRICS
from comfy_proxy.metrics.stats import job_statistics
from comfy_proxy.request_path import normal_path, our_path
from comfy_proxy.security import key_of, owner_of_text

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SHORTCUTS = ("remove-background", "upscale-image", "upscale-remove-bg")
"""Workflows with an address of their own, ``/api/{name}``, beside ``/api/workflows/{name}``."""
MAX_KEY_LENGTH = 255
"""Characters of an ``Idempotency-Key``; a longer one is refused with 400."""


# --- making a job ------------------------------------------------------------------------


def creator(name: str, *, always_async: bool = False) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return await _create(request, name, always_async=always_async)

    return handler


async def create_named(request: web.Request) -> web.StreamResponse:
    return await _create(request, request.match_info["name"])


async def _create(
    request: web.Request, name: str, *, always_async: bool = False
) -> web.StreamResponse:
    service = request.app[JOBS]
    workflow = service.workflows.get(name)
    key = _idempotency_key(request)
    job_request = await service.read(request, workflow)
    try:
        mode = answer_mode(
            job_request.options,
            prefer=header_of(request, "Prefer"),
            accept=header_of(request, "Accept"),
            default_mode=service.settings.default_mode,
        )
        if always_async:
            mode = AnswerMode(synchronous=False)
    except BaseException:
        job_request.close()
        raise
    job, is_new = service.accept(job_request, key)
    await service.durable()
    return await _answer(request, job, service, mode, is_new=is_new)


async def _answer(
    request: web.Request, job: Job, service: JobService, mode: AnswerMode, *, is_new: bool
) -> web.StreamResponse:
    headers = {"Preference-Applied": mode.applied} if mode.applied else {}
    if mode.synchronous and await job.wait_until(_finished, service.clock, mode.wait_s):
        return await synchronous_answer(request, job, headers)
    headers["Location"] = views.urls(job)["status_url"]  # middleware.py adds the root path
    at_once = is_new and not mode.synchronous
    body = views.accepted(job, service, root_of(request), at_once=at_once, tell_how=mode.by_default)
    return json_answer(body, status=202, headers=headers)


def _idempotency_key(request: web.Request) -> str | None:
    """The key, or None, with path and whose it is: a client's key must not reveal another's job.

    Whoever comes without API_KEYS, and with a credential all the same, is known by that. No
    credential is in it: it is written into STATE_FILE.
    """
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not 0 < len(key) <= MAX_KEY_LENGTH:
        raise InvalidFieldError(
            "Idempotency-Key", f"Idempotency-Key has 1 to {MAX_KEY_LENGTH} characters."
        )
    keys = request.app[JOBS].settings.api_keys
    credential = request.headers.get("X-API-Key") or request.headers.get("Authorization")
    owner = (key_of(request, keys) or "") if keys else owner_of_text(credential or "")
    return f"{owner}\n{normal_path(our_path(request))}\n{key}"


# --- asking about a job ------------------------------------------------------------------


async def status(request: web.Request) -> web.StreamResponse:
    service, job = find(request)
    wait_s = wait_seconds(request.query.get("wait"))
    at_arrival, any_change = job.status, waits_for_change(request.query.get("until"))
    if wait_s:
        await job.wait_until(
            lambda job: job.finished or (any_change and job.status is not at_arrival),
            service.clock,
            wait_s,
        )
    return json_answer(views.status(job, service, root_of(request)))


async def events(request: web.Request) -> web.StreamResponse:
    service, job = find(request)
    previews = truth("previews", request.query.get("previews", "false"))
    return await stream_events(request, job, service, previews=previews)


async def info(request: web.Request) -> web.StreamResponse:
    service, job = find(request)
    return json_answer(views.info(job, service, root_of(request)))


async def info_if_ours(request: web.Request) -> web.StreamResponse:
    _require_ours(request)
    return await info(request)


async def list_jobs(request: web.Request) -> web.StreamResponse:
    service = request.app[JOBS]
    wanted = {name: request.query.get(name) for name in ("status", "type", "instance")}
    if wanted["status"] is not None and wanted["status"] not in tuple(JobStatus):
        raise InvalidFieldError("status", f"status is one of {', '.join(JobStatus)}.")
    jobs = [
        job
        for job in service.manager
        if all(value is None or str(getattr(job, name)) == value for name, value in wanted.items())
    ]
    told = views.statuses(jobs, service, root_of(request))
    return json_answer({"jobs": told, "total": len(jobs)})


async def stats(request: web.Request) -> web.StreamResponse:
    return json_answer(job_statistics(request.app[METRICS]))


# --- ending a job ------------------------------------------------------------------------


async def delete(request: web.Request) -> web.StreamResponse:
    service, job = find(request)
    done = "forgotten" if job.finished else "cancelled and forgotten"
    await service.cancel(job)
    return json_answer({"message": f"The job was {done}.", "job_id": job.id})


async def cancel_if_ours(request: web.Request) -> web.StreamResponse:
    _require_ours(request)
    service, job = find(request)
    cancelled = not job.finished
    if cancelled:
        await service.cancel(job)
    return json_answer({"cancelled": cancelled})


# --- helpers -----------------------------------------------------------------------------


def _require_ours(request: web.Request) -> None:
    if request.app[JOBS].manager.find_job(request.match_info["job_id"]) is None:
        raise NotOursError


def _finished(job: Job) -> bool:
    return job.finished
