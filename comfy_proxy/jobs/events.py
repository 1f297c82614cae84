"""``GET /api/jobs/{job_id}/events``: Server-Sent Events of one job (WHATWG HTML, 9.2).

An event's id is the job's version. A slow client gets the newest state, never a backlog: each
``status`` and ``progress`` event has the whole state, so nothing is lost by leaving some out.
"""

from __future__ import annotations

import base64
from contextlib import suppress

from aiohttp import web

from comfy_proxy.cluster.comfyui_frames import PictureFrame
from comfy_proxy.errors import DrainingError
from comfy_proxy.event_stream import HEARTBEAT_S, EventStream, event
from comfy_proxy.forwarded import root_path
from comfy_proxy.jobs import views
from comfy_proxy.jobs.model import Job
from comfy_proxy.jobs.service import JobService


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
    stream = await EventStream.begin(request, service.clock)
    root = root_path(request, service.settings)
    await _JobEvents(stream, job, service, previews=previews, seen=seen, root=root).send_all()
    return await stream.end()


class _JobEvents:
    """What one client is told of one job."""

    def __init__(
        self,
        stream: EventStream,
        job: Job,
        service: JobService,
        *,
        previews: bool,
        seen: int,
        root: str = "",
    ) -> None:
        self._stream = stream
        self._job = job
        self._service = service
        self._root = root
        self._previews = previews
        # An id that we never gave resumes nothing: everything is told.
        self._seen = seen if seen <= job.version else -1
        self._status = job.status if seen == job.version else None
        self._preview: PictureFrame | None = None
        self._end_sent = False

    async def send_all(self) -> None:
        """Until the end was sent, or the proxy stops: an EventSource comes back for the rest."""
        with suppress(DrainingError):
            await self._send_all()

    async def _send_all(self) -> None:
        while not self._end_sent:
            if self._has_news(self._job):
                await self._send_news()
            elif not await self._job.wait_until(self._has_news, self._service.clock, HEARTBEAT_S):
                await self._stream.heartbeat()

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
        data = views.status(job, self._service, self._root)
        await self._stream.send(event(name, data, self._seen))

    async def _send_preview(self, preview: PictureFrame) -> None:
        """Send a preview without an id: a client cut off behind it has not seen that version's
        status yet, and would not get it when it resumes."""
        self._preview = preview
        picture = base64.b64encode(preview.data).decode()
        data = {"mime_type": preview.media_type, "image_base64": picture}
        await self._stream.send(event("preview", data))


def _last_event_id(request: web.Request) -> int:
    text = request.headers.get("Last-Event-ID", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
