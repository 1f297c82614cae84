"""A client of the proxy as ComfyUI's are: posts graphs, listens, asks for queue and history."""

from __future__ import annotations

import asyncio
import io
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from job_client import PATIENCE_S, until
from PIL import Image
from prompt_client import Http, Json, get, graph, post
from yarl import URL

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import CLUSTER

Workers = tuple[EmbeddedWorker, EmbeddedWorker]
LONG_S = 60.0


async def ended(http: Http, *prompt_ids: str) -> Json:
    """Wait until the history has all of them; their entries."""
    entries: Json = {}
    async with asyncio.timeout(PATIENCE_S):
        for prompt_id in prompt_ids:
            while prompt_id not in entries:
                entries |= await get(http, f"/history/{prompt_id}")
                await asyncio.sleep(0.002)
    return entries


def instance_of(http: Http, worker: EmbeddedWorker) -> Any:
    """The cluster's view of a worker."""
    return next(one for one in http.app[CLUSTER].instances if one.host == worker.host)


async def recover(http: Http, worker: EmbeddedWorker) -> None:
    """Have the proxy notice that the worker is (still or again) there."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if await http.app[CLUSTER].health_checker.check(instance_of(http, worker)):
                return
            await asyncio.sleep(0.01)


def png(colour: str | tuple[int, int, int]) -> bytes:
    """A small picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


async def upload(http: Http, content: bytes, name: str) -> str:
    """Upload an input; the name that it got."""
    form = aiohttp.FormData()
    form.add_field("image", content, filename=name, content_type="image/png")
    async with http.post("/upload/image", data=form) as answer:
        assert answer.status == 200, await answer.text()
        return str((await answer.json())["name"])


class Listener:
    """A socket with all frames that came, in order."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, client_id: str) -> None:
        self.client_id = client_id
        self.frames: list[Json] = []
        self.binary: list[bytes] = []
        self._socket = socket

    async def read(self) -> None:
        async for message in self._socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                self.frames.append(json.loads(message.data))
            elif message.type is aiohttp.WSMsgType.BINARY:
                self.binary.append(message.data)

    def kinds(self, prompt_id: str) -> list[str]:
        """The events of one prompt, repeated progress left out."""
        kinds = [f["type"] for f in self.frames if f["data"].get("prompt_id") == prompt_id]
        return [kind for kind in kinds if not kind.startswith("progress")]

    def sums(self) -> list[int]:
        """What ``status`` told."""
        frames = [frame["data"] for frame in self.frames if frame["type"] == "status"]
        return [data["status"]["exec_info"]["queue_remaining"] for data in frames]

    def over(self, prompt_id: str) -> bool:
        return any(
            frame["type"] == "executing" and frame["data"] == {"node": None, "prompt_id": prompt_id}
            for frame in self.frames
        )

    def outputs(self, prompt_id: str) -> list[Json]:
        """The pictures of ``executed``."""
        return [
            picture
            for frame in self.frames
            if frame["type"] == "executed" and frame["data"]["prompt_id"] == prompt_id
            for picture in frame["data"]["output"]["images"]
        ]


COMPLETE = [
    *("execution_start", "execution_cached", "executing", "executing", "executing"),
    *("executed", "execution_success", "executing"),
]
"""The events of ``graph()``, progress left out."""


@asynccontextmanager
async def listening(
    http: Http, client_id: str | None = None, *, path: str = "/ws"
) -> AsyncIterator[Listener]:
    """A socket that is read until the block ends."""
    client_id = client_id or uuid.uuid4().hex
    url = URL(f"{http.make_url('/')}{path[1:]}?clientId={client_id}", encoded=True)
    socket = await http.session.ws_connect(url, max_msg_size=0)
    listener = Listener(socket, client_id)
    reader = asyncio.create_task(listener.read())
    await until(lambda: listener.frames)
    try:
        yield listener
    finally:
        await socket.close()
        await reader


async def pile_up(
    http: Http, workers: Workers, count: int = 5, *, seconds: float = LONG_S, **fields: Any
) -> list[str]:
    """Ids of prompts that are all at the first worker, the first of them running for ``seconds``.

    The second one is hidden: it refuses connections until :func:`show`.
    """
    busy, idle = workers
    await recover(http, idle)
    idle.refuse_connections()
    idle.drop_connections()
    blocker = await post(http, graph(seconds), **fields)
    await until(lambda: busy.started == [blocker])
    waiting = [await post(http, graph(0.01), number=n, **fields) for n in range(1, count)]
    assert busy.submitted == [blocker, *waiting]
    return [blocker, *waiting]


async def show(http: Http, worker: EmbeddedWorker) -> None:
    """Its connections are accepted again, and the proxy knows."""
    await worker.accept_connections()
    await recover(http, worker)


async def interrupt(http: Http, *prompt_ids: str) -> None:
    for prompt_id in prompt_ids:
        async with http.post("/interrupt", json={"prompt_id": prompt_id}) as answer:
            assert answer.status == 200


def total(workers: Workers, prompt_ids: list[str]) -> None:
    """Each of them was started once, wherever that was."""
    started = [*workers[0].started, *workers[1].started]
    assert sorted(started) == sorted(prompt_ids)
