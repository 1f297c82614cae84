"""``GET /api/v2/jobs/{id}/events``: Server-Sent Events of one job, as the contract has them.

``status``, ``progress``, ``preview`` and ``output``, and at last the ``status`` of the end, with
which the SDKs stop to listen: so the outputs come before it. There is no id to resume from, because
each event tells the whole of its matter: whoever comes again is told how the job stands, and what
it has made so far. A slow client gets the newest state, never a backlog.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any, Final

from aiohttp import web

from comfy_proxy.clock import Clock
from comfy_proxy.comfy_api.jobs import Job, JobBook
from comfy_proxy.comfy_api.outputs import Output
from comfy_proxy.comfy_api.positions import QueuePositions
from comfy_proxy.comfy_api.views import Links, output_json
from comfy_proxy.event_stream import HEARTBEAT_S, EventStream, event

PACE_S: Final = 0.5
"""Seconds from one ``progress`` or ``preview`` to the next, at least."""


class JobStream:
    """Tells one client of ``job`` until its end, or until ``closing`` is set."""

    def __init__(
        self,
        job: Job,
        links: Links,
        *,
        jobs: JobBook,
        clock: Clock,
        positions: QueuePositions,
        closing: asyncio.Event,
    ) -> None:
        self._job = job
        self._links = links
        self._jobs = jobs
        self._clock = clock
        self._positions = positions
        self._closing = closing
        self._told_status: tuple[str, int | None] | None = None
        self._told_outputs: set[str] = set()
        self._told_progress: Any = None
        self._told_preview: Any = None
        self._told_frames = -1
        self._paced_at: float | None = None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Send the stream to its end. Raises ConnectionResetError if the client has left, or does
        not take what is written (``event_stream.py``)."""
        stream = await EventStream.begin(request, self._clock)
        with self._jobs.watched(self._job):
            await self._run(stream)
        return await stream.end()

    async def _run(self, stream: EventStream) -> None:
        job, sent_at = self._job, self._clock.monotonic()
        while not self._closing.is_set():
            seen, is_over = job.version, job.end is not None
            events = self._news(is_over=is_over)
            for one in events:
                await stream.send(one if isinstance(one, bytes) else self._made(one))
                await asyncio.sleep(0)
            if is_over:
                return
            now = self._clock.monotonic()
            sent_at = now if events else sent_at
            if (left_s := sent_at + HEARTBEAT_S - now) <= 0:
                await stream.heartbeat()
                sent_at = now
            else:
                await job.wait_for_news(seen, self._clock, self._pause_s(left_s, now))

    def _pause_s(self, left_s: float, now: float) -> float:
        """Until the heartbeat, or until what was held back may be told."""
        if self._paced_at is None or self._told_frames == self._job.frames:
            return left_s
        return min(left_s, max(0.01, self._paced_at + PACE_S - now))

    def _made(self, output: Output) -> bytes:
        return event("output", output_json(self._job, output, self._links))

    def _news(self, *, is_over: bool) -> list[bytes | Output]:
        """What is to be told now; all of it is read before any of it is written. An output never
        changes, and becomes an event when it is its turn: 10,000 at once took 60 ms."""
        job, events = self._job, list[bytes | Output]()
        status = str(job.status), self._positions.of(job.id)
        if not is_over and status != self._told_status:
            self._told_status = status
            events.append(event("status", {"status": status[0], "queue_position": status[1]}))
        events += self._paced(is_over=is_over)
        for output in tuple(job.outputs.values()):
            if output.id not in self._told_outputs:
                self._told_outputs.add(output.id)
                events.append(output)
        if is_over:
            events.append(event("status", {"status": str(job.status), "queue_position": None}))
        return events

    def _paced(self, *, is_over: bool) -> list[bytes]:
        """Progress and preview, at their pace; the last progress in any case."""
        now, events = self._clock.monotonic(), list[bytes]()
        if not is_over and self._told_frames == self._job.frames:
            return []
        if not is_over and self._paced_at is not None and now < self._paced_at + PACE_S:
            return []
        self._told_frames = self._job.frames
        progress = self._progress()
        if progress is not None and progress != self._told_progress:
            self._told_progress = progress
            events.append(event("progress", progress))
        if (preview := self._job.preview) is not None and preview is not self._told_preview:
            self._told_preview = preview
            picture = {
                "node_id": preview.node_id or "",
                "content_type": preview.media_type,
                "data_base64": base64.b64encode(preview.data).decode(),
            }
            events.append(event("preview", picture))
        if events:
            self._paced_at = now
        return events

    def _progress(self) -> Any:
        job = self._job
        if job.progress is None:
            return job.last_progress
        return job.progress.snapshot() if job.runs else None
