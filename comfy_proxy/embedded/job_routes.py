"""Routes of a ComfyUI of 2026 about jobs: `/api/jobs`, one job, and what cancels them.

They stand under `/api` only.
"""

import json

from aiohttp import web

from comfy_proxy.embedded.instance import INSTANCE, Instance
from comfy_proxy.embedded.job_list import ended_job, page_of, queued_job
from comfy_proxy.embedded.nodes.node_class import Json
from comfy_proxy.embedded.prompt_ids import is_canonical


async def get_jobs(request: web.Request) -> web.Response:
    """Waiting, running and ended prompts in one list: filtered, sorted, a page of it."""
    jobs = _jobs(request.app[INSTANCE])
    try:
        return web.json_response(page_of(jobs.values(), request.rel_url.query))
    except ValueError as error:
        return web.json_response({"error": str(error)}, status=400)


async def get_job(request: web.Request) -> web.Response:
    """One job; an ended one with its graph and outputs."""
    instance, job_id = request.app[INSTANCE], request.match_info["job_id"]
    if entry := instance.queue.history_of(job_id).get(job_id):
        return web.json_response(ended_job(entry, whole=True))
    job = _jobs(instance).get(job_id)
    if job is None:
        return web.json_response({"error": "Job not found"}, status=404)
    return web.json_response(job)


async def post_cancel(request: web.Request) -> web.Response:
    """Whether it was cancelled: one that has ended, or is unknown, is not."""
    return web.json_response(
        {"cancelled": _cancel(request.app[INSTANCE], request.match_info["job_id"])}
    )


async def post_cancel_many(request: web.Request) -> web.Response:
    """`{"job_ids": […]}`: whether any was cancelled; 400, and none is, if one is no UUID."""
    try:
        body = await request.json()
    except json.JSONDecodeError:
        return web.json_response({"error": "Request body must be valid JSON"}, status=400)
    job_ids = body.get("job_ids") if isinstance(body, dict) else None
    if not isinstance(job_ids, list):
        return web.json_response({"error": "job_ids must be a list"}, status=400)
    if odd := [
        one if isinstance(one, str) else repr(one) for one in job_ids if not is_canonical(one)
    ]:
        error = {"error": "job_ids contains invalid id(s)", "invalid_ids": odd}
        return web.json_response(error, status=400)
    cancelled = [_cancel(request.app[INSTANCE], job_id) for job_id in job_ids]
    return web.json_response({"cancelled": any(cancelled)})


def _jobs(instance: Instance) -> dict[str, Json]:
    """All by their ids, the history's last: a prompt that ends meanwhile is there once."""
    queue = instance.queue.snapshot()
    jobs = {row[1]: queued_job(row, "in_progress") for row in queue["queue_running"]}
    jobs |= {row[1]: queued_job(row, "pending") for row in queue["queue_pending"]}
    ended = instance.queue.history()
    return jobs | {key: ended_job(entry, whole=False) for key, entry in ended.items()}


def _cancel(instance: Instance, job_id: str) -> bool:
    if instance.queue.running_id() == job_id:
        instance.executor.interrupt()
        return True
    waiting = [row[1] for row in instance.queue.snapshot()["queue_pending"]]
    instance.queue.delete(job_id)
    return job_id in waiting


ROUTES = (
    web.get("/api/jobs", get_jobs),
    web.post("/api/jobs/cancel", post_cancel_many),
    web.get("/api/jobs/{job_id}", get_job),
    web.post("/api/jobs/{job_id}/cancel", post_cancel),
)
