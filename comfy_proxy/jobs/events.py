"""``GET /api/jobs/{job_id}/events``: Server-Sent Events of one job (WHATWG HTML, 9.2).

An event's id is the job's version. A slow client gets the newest state, never a backlog: each
``status`` and ``progress`` event has the whole state, so nothing is lost by leaving some out.
"""

from __future__ import annotations

import base64
from contextlib import suppress

from aiohttp import web

from comfy_proxy.cluster.comfyui_frames import PictureFrame
from comfy_proxy.counted_response import CountedResponse
from comfy_proxy.errors import DrainingError
from comfy_proxy.forwarded import root_path
from comfy_proxy.jobs import views
from comfy_proxy.jobs.model import Job
from comfy_proxy.jobs.service import JobService
from comfy_proxy.lenient_json import dumps

HEARTBEAT_S = 15.0
"""Seconds without an event after which a comment line is sent, as WHATWG HTML 9.2.7 advises: some
servers in between drop a connection that is silent for longer."""
WRITE_TIMEOUT_S = 60.0
"""Seconds in which a client must take an event; beyond, its connection is ended. Otherwise the job
and its picture would be kept in memory for a client that reads nothing."""


async def stream_events(
    request: web.Request, job: Job, service: JobService, *, previews: bool
) -> web.StreamResponse:
    """Send ``status``, ``progress``, ``preview`` and at last ``completed`` or ``failed``.

    The data is the JSON of ``/status``, for ``preview`` a picture as base64. ``Last-Event-ID``
    resumes; a client that has seen the end already gets 204, which tells an EventSource to stop
    coming back.
    """
    seen = _last_event_id(request)
    if job.finished and seen == job.version:
        return web.Response(status=204)
    response = CountedResponse(
        headers={
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",  # nginx would hold events back until its buffer is full
        }
    )
    await response.prepare(request)
    root = root_path(request, service.settings)
    stream = _EventStream(response, job, service, previews=previews, seen=seen, root=root)
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
        root: str = "",
    ) -> None:
        self._response = response
        self._job = job
        self._service = service
        self._root = root
        self._previews = previews
        # An id that we never gave resumes nothing: everything is told.
        self._seen = seen if seen <= job.version else -1
        self._status = job.status if seen == job.version else None
        self._preview: PictureFrame | None = None
        self._end_sent = False

    async def run(self) -> None:
        """Until the end was sent, or the proxy stops: an EventSource comes back for the rest."""
        with suppress(DrainingError):
            await self._run()

    async def _run(self) -> None:
        while not self._end_sent:
            if self._has_news(self._job):
                await self._send_news()
            elif not await self._job.wait_until(self._has_news, self._service.clock, HEARTBEAT_S):
                await self._write(b": heartbeat\n\n")

    def _has_news(self, job: Job) -> bool:
        return job.version > self._seen

    async def _send_news(self) -> None:
        job = self._job
        if self._previews and job.preview is not None and job.preview is not self._preview:
            await self._send_preview(job.preview)
        # All of it is read before the next await: the job goes on while the client reads, and may
        # even finish. Then the end would count as sent although it was not.
        self._seen = job.version
        self._end_sent = job.finished
        if job.finished:
            name = str(job.status)
        else:
            name = "progress" if job.status is self._status else "status"
        self._status = job.status
        data = dumps(views.status(job, self._service, self._root))
        await self._write(b"event: %s\nid: %d\ndata: %s\n\n" % (name.encode(), self._seen, data))

    async def _send_preview(self, preview: PictureFrame) -> None:
        """Send a preview without an id: a client cut off behind it has not seen that version's
        status yet, and would not get it when it resumes."""
        self._preview = preview
        picture = base64.b64encode(preview.data).decode()
        data = dumps({"mime_type": preview.media_type, "image_base64": picture})
        await self._write(b"event: preview\ndata: %s\n\n" % data)

    async def _write(self, data: bytes) -> None:
        try:
            async with self._service.clock.timeout(WRITE_TIMEOUT_S):
                await self._response.write(data)
        except TimeoutError:
            raise ConnectionResetError("the client does not read its events") from None


def _last_event_id(request: web.Request) -> int:
    text = request.headers.get("Last-Event-ID", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
