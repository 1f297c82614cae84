"""What the viewers of the dashboard are sent: one picture of the whole, made once for all of them.

Nothing is made while nobody looks. A change is shown at once, many of them at most twice a second;
who reads slowly gets the newest picture, never a backlog.
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
from comfy_proxy.counted_response import CountedResponse
from comfy_proxy.lenient_json import dumps
from comfy_proxy.tracing import untraced

SHORTEST_INTERVAL_S = 0.5
LONGEST_INTERVAL_S = 5.0
"""Ages and waiting times go on while nothing happens; and a viewer who left is found out."""
WRITE_TIMEOUT_S = 60.0
RETRY_MS = 1000
"""After which an EventSource that lost us tries again."""

_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Moment:
    """Ready events: the ``state``, and the ``preview`` of each job that shows one."""

    state: bytes
    previews: Mapping[str, bytes]


class Feed:
    """``state`` makes the picture of the moment, ``previews`` what jobs show by job id."""

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
        """Something that the page shows is different now."""
        self._changed.set()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Send ``state`` and ``preview`` events until the viewer leaves or the proxy ends."""
        response = CountedResponse(headers=_HEADERS)
        await response.prepare(request)
        viewer = self._welcome()
        try:
            await self._write(response, b"retry: %d\n\n" % RETRY_MS)
            while (events := await viewer.next()) is not None:
                await self._write(response, events)
            await response.write_eof()
        finally:
            self._viewers.discard(viewer)
        return response

    def end_viewers(self) -> None:
        """The proxy goes down: nobody waits for a page that is left open."""
        self._ended = True
        for viewer in self._viewers:
            viewer.end()

    async def close(self) -> None:
        """End what the viewers have begun."""
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

    async def _write(self, response: web.StreamResponse, events: bytes) -> None:
        try:
            async with self._clock.timeout(WRITE_TIMEOUT_S):
                await response.write(events)
        except TimeoutError:
            raise ConnectionResetError("the viewer does not read") from None

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
        before = self._encoded
        self._encoded = {
            job_id: before[job_id]
            if job_id in before and before[job_id][0] is frame
            else (frame, _preview(job_id, frame))
            for job_id, frame in self._previews().items()
        }
        return _Moment(
            state=b"event: state\ndata: %s\n\n" % dumps(self._state()),
            previews={job_id: event for job_id, (_, event) in self._encoded.items()},
        )


class _Viewer:
    """One open page; knows what it was sent, and the newest of what it was not."""

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
        """What is to be sent; None at the end."""
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
    return b"event: preview\ndata: %s\n\n" % dumps(data)
