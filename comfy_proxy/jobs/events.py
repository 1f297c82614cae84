"""``GET /api/jobs/{job_id}/events``: Server-Sent Events of one job (WHATWG HTML, 9.2).

An event's id is the job's version. A slow client gets the newest state, never a backlog: what it
missed is contained in what it is sent next.
"""

from __future__ import annotations

import base64

import orjson
from aiohttp import web

from comfy_proxy.cluster.comfyui_frames import PictureFrame
from comfy_proxy.jobs import views
from comfy_proxy.jobs.model import Job, JobStatus
from comfy_proxy.jobs.service import JobService

HEARTBEAT_S = 15.0


async def stream_events(
    request: web.Request, job: Job, service: JobService, *, previews: bool
) -> web.StreamResponse:
    """Send ``status``, ``progress``, ``preview`` and at last ``completed`` or ``failed``.

    ``Last-Event-ID`` resumes; a client that has seen the end already gets 204, which tells an
    EventSource to stop coming back.
    """
    seen = _last_event_id(request)
    if job.finished and seen >= job.version:
        return web.Response(status=204)
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
        }
    )
    await response.prepare(request)
    stream = _EventStream(response, job, service, previews=previews, seen=seen)
    await stream.run()
    await response.write_eof()
    return response


class _EventStream:
    def __init__(
        self,
        response: web.StreamResponse,
        job: Job,
        service: JobService,
        *,
        previews: bool,
        seen: int,
    ) -> None:
        self._response = response
        self._job = job
        self._service = service
        self._previews = previews
        self._seen = seen
        self._status: JobStatus | None = None
        self._preview: PictureFrame | None = None

    async def run(self) -> None:
        while True:
            if self._job.version > self._seen or self._status is None:
                await self._send_news()
            if self._job.finished:
                return
            if not await self._job.wait_until(self._has_news, self._service.clock, HEARTBEAT_S):
                await self._response.write(b": heartbeat\n\n")

    def _has_news(self, job: Job) -> bool:
        return job.version > self._seen

    async def _send_news(self) -> None:
        job = self._job
        self._seen = job.version
        if self._previews and job.preview is not None and job.preview is not self._preview:
            self._preview = job.preview
            picture = base64.b64encode(job.preview.data).decode()
            await self._send(
                "preview", {"mime_type": job.preview.media_type, "image_base64": picture}
            )
        if job.finished:
            name = str(job.status)
        else:
            name = "progress" if job.status is self._status else "status"
        self._status = job.status
        await self._send(name, views.status(job, self._service))

    async def _send(self, name: str, data: object) -> None:
        body = b"event: %s\nid: %d\ndata: %s\n\n"
        await self._response.write(body % (name.encode(), self._seen, orjson.dumps(data)))


def _last_event_id(request: web.Request) -> int:
    text = request.headers.get("Last-Event-ID", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
