"""What the viewers of the dashboard are sent: one picture of the whole, made once for all of them.

Nothing is made while nobody looks. A change is shown at once, many of them at most twice a second;
who reads slowly gets the newest picture, never a backlog.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import orjson
from aiohttp import web

from comfy_proxy.clock import Clock, sleep, wait_for_event
from comfy_proxy.cluster.comfyui_frames import PictureFrame
from comfy_proxy.tracing import untraced

SHORTEST_INTERVAL_S = 0.5
LONGEST_INTERVAL_S = 5.0
"""Ages and times of the last checks go on while nothing happens."""
WRITE_TIMEOUT_S = 60.0

_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}


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
        self._shown: dict[str, PictureFrame] = {}
        self._maker: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Feed viewers={len(self._viewers)}>"

    def changed(self, *_: object) -> None:
        """Something that the page shows is different now."""
        self._changed.set()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Send ``state`` and ``preview`` events until the viewer leaves or the proxy ends."""
        response = web.StreamResponse(headers=_HEADERS)
        await response.prepare(request)
        viewer = _Viewer()
        self._viewers.add(viewer)
        self._changed.set()
        if self._maker is None:
            self._maker = asyncio.create_task(self._make(), name="dashboard", context=untraced())
        try:
            while (events := await viewer.next()) is not None:
                async with self._clock.timeout(WRITE_TIMEOUT_S):
                    await response.write(events)
            await response.write_eof()
        except TimeoutError:
            raise ConnectionResetError("the viewer does not read") from None
        finally:
            self._viewers.discard(viewer)
        return response

    def end_viewers(self) -> None:
        """The proxy goes down: nobody waits for a page that is left open."""
        for viewer in self._viewers:
            viewer.end()

    async def close(self) -> None:
        """End what the viewers have begun."""
        self.end_viewers()
        if self._maker is not None:
            self._maker.cancel()
            with suppress(asyncio.CancelledError):
                await self._maker

    async def _make(self) -> None:
        while True:
            await wait_for_event(
                self._clock, self._changed, LONGEST_INTERVAL_S if self._viewers else None
            )
            self._changed.clear()
            if self._viewers:
                self._tell()
                await sleep(self._clock, SHORTEST_INTERVAL_S)

    def _tell(self) -> None:
        state = b"event: state\ndata: %s\n\n" % orjson.dumps(self._state())
        now = self._previews()
        changed = {i: preview for i, preview in now.items() if self._shown.get(i) is not preview}
        previews = {job_id: _preview(job_id, preview) for job_id, preview in changed.items()}
        self._shown = dict(now)
        for viewer in self._viewers:
            viewer.put(state, previews)


class _Viewer:
    """One open page; holds the newest of everything that it was not sent yet."""

    def __init__(self) -> None:
        self._state = b""
        self._previews: dict[str, bytes] = {}
        self._ready = asyncio.Event()
        self._ended = False

    def put(self, state: bytes, previews: Mapping[str, bytes]) -> None:
        self._state = state
        self._previews.update(previews)
        self._ready.set()

    def end(self) -> None:
        self._ended = True
        self._ready.set()

    async def next(self) -> bytes | None:
        """What is to be sent; None at the end."""
        await self._ready.wait()
        if self._ended:
            return None
        self._ready.clear()
        events = b"".join(self._previews.values()) + self._state
        self._previews.clear()
        return events


def _preview(job_id: str, preview: PictureFrame) -> bytes:
    picture = base64.b64encode(preview.data).decode()
    data = {"job_id": job_id, "mime_type": preview.media_type, "image_base64": picture}
    return b"event: preview\ndata: %s\n\n" % orjson.dumps(data)
