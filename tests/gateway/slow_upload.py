"""The two ends of an upload that takes its time: a client that stops before its end, a primary."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import aiohttp
import pytest
from aiohttp import web
from files_front import Front
from gateway_harness import Harness

from comfy_proxy.gateway.files.upload_body import PASSED_BYTES

LONG = bytes(range(256)) * (PASSED_BYTES // 256)
"""A picture as long as those that pass while they come."""
TAKEN = {"name": "x.png", "subfolder": "", "type": "input"}
"""What a :class:`Primary` answers."""
KIND = {"Content-Type": "multipart/form-data; boundary=b"}


def form_of(content: bytes, name: str = "x.png", **fields: str) -> bytes:
    """The body of an upload, its fields after the file."""
    head = f'--b\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    return b"".join([head.encode(), content, b"\r\n", *parts, b"--b--\r\n"])


async def posted(
    front: Front, body: bytes, headers: Mapping[str, str] = KIND
) -> tuple[int, bytes, Mapping[str, str]]:
    """Status, body and headers of the answer to the upload of ``body``."""
    async with front.client.post("/upload/image", data=io.BytesIO(body), headers=headers) as answer:
        return answer.status, await answer.read(), answer.headers


class SlowUpload:
    """Sends all of ``body`` but its last ``last`` bytes at once; those after :meth:`go_on`."""

    def __init__(self, front: Front, body: bytes, *, last: int = 1, chunked: bool = False) -> None:
        self._front = front
        self._body = body
        self._last = last
        self._may_go_on = asyncio.Event()
        self._headers = KIND if chunked else KIND | {"Content-Length": str(len(body))}

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self._post())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.leave()

    async def leave(self) -> None:
        """Close the connection, whatever was sent."""
        self.task.cancel()
        await asyncio.wait([self.task])

    async def go_on(self) -> Any:
        """Send the rest; status and JSON of the answer."""
        self._may_go_on.set()
        return await self.task

    async def _post(self) -> tuple[int, Any]:
        data, headers = self._parts(), self._headers
        async with self._front.client.post("/upload/image", data=data, headers=headers) as answer:
            return answer.status, await answer.json()

    async def _parts(self) -> AsyncIterator[bytes]:
        yield self._body[: -self._last]
        await self._may_go_on.wait()
        yield self._body[-self._last :]


def begun(front: Front, monkeypatch: pytest.MonkeyPatch) -> asyncio.Queue[asyncio.Task[Any]]:
    """The uploads, and their copies, as they begin."""
    uploads, queue = front.gateway.uploads, asyncio.Queue[asyncio.Task[Any]]()
    begin = uploads.begin

    def spy(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        queue.put_nowait(task := begin(work))
        return task

    monkeypatch.setattr(uploads, "begin", spy)
    return queue


class Primary:
    """An instance that takes an upload as ``end`` says; it has nothing else."""

    def __init__(
        self, end: Callable[[Primary, web.Request], Awaitable[web.StreamResponse]]
    ) -> None:
        self._end = end
        self.received = bytearray()
        self.begun = asyncio.Event()
        self.broken = asyncio.Event()

    async def start(self, harness: Harness) -> Any:
        """Its address, as a front wants it."""
        return SimpleNamespace(url=str(await harness.upstream(self._handle)))

    async def take(self, request: web.Request, size: float = float("inf")) -> None:
        """Read ``size`` bytes at least, all if there are fewer."""
        while len(self.received) < size and (piece := await request.content.readany()):
            self.received += piece
            self.begun.set()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.method == "HEAD":
            return web.Response(status=404)
        self.received.clear()
        try:
            return await self._end(self, request)
        except (aiohttp.ClientError, OSError, asyncio.CancelledError):
            self.broken.set()
            raise


async def takes(primary: Primary, request: web.Request) -> web.StreamResponse:
    """An end of a :class:`Primary`: it takes all of it."""
    await primary.take(request)
    return web.json_response(TAKEN)


async def dies(primary: Primary, request: web.Request) -> web.StreamResponse:
    """Another one: its process ends with the first bytes."""
    await primary.take(request, 1)
    assert request.transport is not None
    request.transport.abort()
    return web.Response()
