"""What open dashboards are sent: one snapshot of the whole, made once for all viewers.

Nothing is made while nobody looks. A change is shown at once, many changes at most twice a second.
A viewer that reads slowly gets the newest snapshot next, never a backlog.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from loguru import logger

from comfy_proxy.clock import Clock, sleep, wait_for_event
from comfy_proxy.cluster.comfyui_frames import PictureFrame
from comfy_proxy.event_stream import EventStream, event
from comfy_proxy.tracing import untraced

SHORTEST_INTERVAL_S = 0.5
"""Seconds between two snapshots at least; changes in between are in the next one."""
LONGEST_INTERVAL_S = 5.0
"""Seconds between two snapshots at most: ages and waiting times go on while nothing happens, and
that a viewer has left is noticed only when something is written to it."""
RETRY_MS = 1000
"""Milliseconds after which a page's EventSource that lost its connection tries again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Moment:
    """Encoded events: the ``state``, and by job id the ``preview`` of each job that has one."""

    state: bytes
    previews: Mapping[str, bytes]


class Feed:
    """Sends snapshots to all viewers.

    ``state`` makes the data of a ``state`` event, ``previews`` gives the newest preview by job id;
    both are called on the event loop, once for a snapshot.
    """

    def __init__(
        self,
        state: Callable[[], Mapping[str, Any]],
        previews: Callable[[], Mapping[str, PictureFrame]],
        *,
        clock: Clock,
    ) -> None:
        self._state = state
        self._previews = previews
        self._clock = clock
        self._changed = asyncio.Event()
        self._viewers: set[_Viewer] = set()
        self._encoded: dict[str, tuple[PictureFrame, bytes]] = {}
        self._maker: asyncio.Task[None] | None = None
        self._ended = False

    def __repr__(self) -> str:
        return f"<Feed viewers={len(self._viewers)}>"

    def changed(self, *_: object) -> None:
        """Something that the page shows has changed (an observer of anything)."""
        self._changed.set()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Send ``state`` and ``preview`` events until the viewer leaves or the proxy ends."""
        stream = await EventStream.begin(request, self._clock, retry_ms=RETRY_MS)
        viewer = self._welcome()
        try:
            while (events := await viewer.next()) is not None:
                await stream.send(events)
        finally:
            self._viewers.discard(viewer)
        return await stream.end()

    def end_viewers(self) -> None:
        """End every stream: the proxy stops, and must not wait for pages that are left open."""
        self._ended = True
        for viewer in self._viewers:
            viewer.end()

    async def close(self) -> None:
        """End every stream and the task that makes snapshots."""
        self.end_viewers()
        if self._maker is not None:
            self._maker.cancel()
            with suppress(asyncio.CancelledError):
                await self._maker

    def _welcome(self) -> _Viewer:
        viewer = _Viewer()
        self._viewers.add(viewer)
        self._changed.set()
        if self._ended:
            viewer.end()
        elif self._maker is None:
            self._maker = asyncio.create_task(self._make(), name="dashboard", context=untraced())
        return viewer

    async def _make(self) -> None:
        while True:
            await wait_for_event(
                self._clock, self._changed, LONGEST_INTERVAL_S if self._viewers else None
            )
            self._changed.clear()
            if not self._viewers:
                self._encoded.clear()
                continue
            try:
                moment = self._moment()
            except Exception as error:  # the next change is shown whatever this was
                logger.opt(exception=error).error("the dashboard could not be made")
            else:
                for viewer in self._viewers:
                    viewer.show(moment)
            await sleep(self._clock, SHORTEST_INTERVAL_S)

    def _moment(self) -> _Moment:
        # A preview is encoded when it changes, not for each snapshot. What jobs have ended is gone.
        before = self._encoded
        self._encoded = {
            job_id: before[job_id]
            if job_id in before and before[job_id][0] is frame
            else (frame, _preview(job_id, frame))
            for job_id, frame in self._previews().items()
        }
        return _Moment(
            state=event("state", self._state()),
            previews={job_id: encoded for job_id, (_, encoded) in self._encoded.items()},
        )


class _Viewer:
    """One open page: the previews that it was sent, and the newest snapshot that it was not."""

    def __init__(self) -> None:
        self._newest: _Moment | None = None
        self._sent: Mapping[str, bytes] = {}
        self._news = asyncio.Event()
        self._ended = False

    def show(self, moment: _Moment) -> None:
        self._newest = moment
        self._news.set()

    def end(self) -> None:
        self._ended = True
        self._news.set()

    async def next(self) -> bytes | None:
        """Wait for a new snapshot; its events, of previews those not sent yet. None at the end."""
        await self._news.wait()
        if self._ended or self._newest is None:
            return None
        self._news.clear()
        previews = self._newest.previews
        new = [event for job_id, event in previews.items() if self._sent.get(job_id) is not event]
        self._sent = previews
        return b"".join((*new, self._newest.state))


def _preview(job_id: str, preview: PictureFrame) -> bytes:
    picture = base64.b64encode(preview.data).decode()
    data = {"job_id": job_id, "mime_type": preview.media_type, "image_base64": picture}
    return event("preview", data)
