"""``/api/v2/jobs``: the handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from aiohttp import web

from comfy_proxy.client_identity import client_of
from comfy_proxy.comfy_api.events import JobStream
from comfy_proxy.comfy_api.jobs import Job
from comfy_proxy.comfy_api.pages import Page
from comfy_proxy.comfy_api.service import ComfyApi
from comfy_proxy.comfy_api.views import JOBS, Links, job_json, listed_json
from comfy_proxy.counted_response import LARGE, CountedResponse
from comfy_proxy.errors import NotFoundError
from comfy_proxy.json_steps import in_turns, loads_in_steps, written_in_turns
from comfy_proxy.keys import COMFY_API, SETTINGS, SHUTDOWN
from comfy_proxy.lenient_json import dumps
from comfy_proxy.security import key_of

CANCEL_S: Final = 1.0
"""Seconds for which a client that cancels waits for the end, so that it is told ``canceled`` where
that takes no time; then it is told ``canceling``."""


def routes() -> list[web.RouteDef]:
    """Exactly the contract's; all else below these paths is ComfyUI's, HEAD too."""
    one = f"{JOBS}/{{id}}"
    return [
        web.get("/api/v2/health", _health, allow_head=False),
        web.post(JOBS, _submit),
        web.get(JOBS, _list, allow_head=False),
        web.get(one, _job, allow_head=False),
        web.get(f"{one}/workflow", _workflow, allow_head=False),
        web.post(f"{one}/cancel", _cancel),
        web.get(f"{one}/events", _events, allow_head=False),
    ]


def owner_of(request: web.Request) -> str:
    """Whose jobs and assets the request may see: those of its key, all while there are no keys."""
    keys = request.app[SETTINGS].api_keys
    return (key_of(request, keys) or "") if keys else ""


def links_of(request: web.Request) -> Links:
    """Where the client of ``request`` finds us."""
    return Links.of(request, request.app[SETTINGS])


async def _health(request: web.Request) -> web.StreamResponse:
    """That this process answers; what the instances do is in ``/health``."""
    return web.json_response({"status": "healthy"})


async def _submit(request: web.Request) -> web.StreamResponse:
    api, owner = request.app[COMFY_API], owner_of(request)
    request.app[SHUTDOWN].check_open()
    job = await api.submissions.submit(request, owner, api.finding(owner))
    return await _answer(request, api, job, status=201)


async def _list(request: web.Request) -> web.StreamResponse:
    api, owner, links = request.app[COMFY_API], owner_of(request), links_of(request)
    page = Page.of(request.query)
    own = (job for job in api.jobs if job.owner == owner and job.accepted)
    jobs, cursor = page.cut(own)
    return await _sent(request, _listed(api, links, jobs, cursor))


def _listed(api: ComfyApi, links: Links, jobs: list[Job], cursor: str | None) -> Iterator[bytes]:
    """A page; each of its jobs is read when it is that one's turn."""
    before = b'{"jobs":['
    for job in jobs:
        yield before
        yield from listed_json(job, links, api.positions.of(job.id))
        before = b","
    yield b"" if jobs else before
    yield b'],"truncated":false'
    yield (b',"next_cursor":%s}' % dumps(cursor)) if cursor else b"}"


async def _job(request: web.Request) -> web.StreamResponse:
    api, job = await _found(request)
    return await _answer(request, api, job)


async def _workflow(request: web.Request) -> web.StreamResponse:
    api, job = await _found(request)
    graph = await _graph(api, job)
    if graph is None:
        raise NotFoundError(f"The workflow of job {job.id} is not known any more.")
    body = b"".join((b'{"workflow": ', *graph, b', "format": "api"}'))
    return web.Response(body=body, content_type="application/json")


async def _graph(api: ComfyApi, job: Job) -> list[bytes] | None:
    """Of a job that lives as it was posted, of one that has ended as its history has it."""
    prompt = api.ledger.find(job.id)
    body = b"" if prompt is None else await api.doors.spool.body(prompt)
    if body:
        document = await in_turns(loads_in_steps(body))
        return await written_in_turns(document["prompt"])
    text = await api.doors.ended.graph(job.id)
    return None if text is None else [text]


async def _cancel(request: web.Request) -> web.StreamResponse:
    """The state of the job afterwards; of one that has ended before as it was."""
    api, job = await _found(request)
    if job.end is None:
        await api.doors.commands.cancel(job.id)
        job.cancelled = True
        job.changed()
        await _wait_for_end(api, job)
    return await _answer(request, api, job)


async def _wait_for_end(api: ComfyApi, job: Job) -> None:
    clock = api.cluster.clock
    deadline = clock.monotonic() + CANCEL_S
    with api.jobs.watched(job):
        while job.end is None and (left_s := deadline - clock.monotonic()) > 0:
            await job.wait_for_news(job.version, clock, left_s)


async def _events(request: web.Request) -> web.StreamResponse:
    api, job = await _found(request)
    stream = JobStream(
        job,
        links_of(request),
        jobs=api.jobs,
        clock=api.cluster.clock,
        positions=api.positions,
        closing=api.closing,
    )
    with api.streaming(client_of(request, request.app[SETTINGS])):
        return await stream.answer(request)


async def _found(request: web.Request) -> tuple[ComfyApi, Job]:
    """The job that the path names, its record as new as can be."""
    api = request.app[COMFY_API]
    job = api.job(request.match_info["id"], owner_of(request))
    await api.follower.resolve(job)
    return api, job


async def _answer(
    request: web.Request, api: ComfyApi, job: Job, *, status: int = 200
) -> web.StreamResponse:
    pieces = job_json(job, links_of(request), api.positions.of(job.id))
    return await _sent(request, pieces, status=status)


async def _sent(
    request: web.Request, pieces: Iterator[bytes], *, status: int = 200
) -> web.StreamResponse:
    """JSON in its pieces: a short one in one, a long one as its client takes it. Never more than
    LARGE bytes of it are in memory, and others have their turn in between."""
    batch, answer = bytearray(), CountedResponse(status=status)
    answer.content_type = "application/json"
    for piece in pieces:
        batch += piece
        if len(batch) >= LARGE:
            if not answer.prepared:
                await answer.prepare(request)
            await answer.write(bytes(batch))
            batch.clear()
            await asyncio.sleep(0)
    if not answer.prepared:
        return web.Response(body=bytes(batch), status=status, content_type="application/json")
    await answer.write_eof(bytes(batch))
    return answer
