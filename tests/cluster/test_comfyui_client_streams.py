"""Answers of ComfyUI that are endless, silent, late or compressed."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cluster_harness import eventually
from manual_clock import ManualClock

from comfy_proxy.cluster import answer_bodies
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.comfyui_client import ComfyUIClient, OutputFile
from comfy_proxy.cluster.object_info.single_classes import class_info
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.errors import (
    AnswerTooLargeError,
    InstanceError,
    InstanceTimeoutError,
    InvalidAnswerError,
)
from comfy_proxy.stored_bytes import StoredBytes

GPU = "http://gpu1:8188/comfy"
PROMPT_ID = "0dfe5e00-5637-46f0-ae6a-12e54160ba92"
HISTORY = b'{"%s": {"prompt": ' % PROMPT_ID.encode()
FILE = OutputFile(filename="a b.png", subfolder="x", type="temp")


def client_of(cluster: Cluster) -> ComfyUIClient:
    return cluster.clients[cluster.instances[0]]


async def test_endless_answer(
    cluster: Cluster, worker: EmbeddedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body without end is cut off at a limit; whoever sends it works, so it is no strike."""
    monkeypatch.setattr(answer_bodies, "MAX_JSON_BYTES", 4096)
    worker.faults.answers = {"/object_info": "endless"}
    with pytest.raises(AnswerTooLargeError, match="4096"):
        await class_info(client_of(cluster), "LoadImage")
    assert cluster.instances[0].breaker.consecutive_failures == 0


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 2**20 - 1, 2**20, 3 * 2**20 + 7])
async def test_a_body_of_any_length_comes_whole(
    connected: Callable[..., Awaitable[Cluster]], size: int
) -> None:
    """Long ones are put together in blocks, and by a thread."""
    text = b'{"A": "' + bytes(32 + at % 64 for at in range(97)) * (size // 97 + 1)

    async def object_info(_: web.Request) -> web.Response:
        return web.Response(body=io.BytesIO(text[:size]))

    app = web.Application()
    app.router.add_get("/object_info", object_info)
    async with TestServer(app) as server:
        cluster = await connected(f"127.0.0.1:{server.port}")
        assert await client_of(cluster).object_info() == text[:size]


async def test_endless_text_that_is_no_json(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """Of what begins like no queue the end is not waited for; it counts as a fault."""
    worker.faults.answers = {"/queue": "endless"}
    with pytest.raises(InvalidAnswerError, match="no JSON"):
        await client_of(cluster).queue()
    assert cluster.instances[0].breaker.consecutive_failures == 1


async def test_a_queue_and_a_history_of_any_size(
    connected: Callable[..., Awaitable[Cluster]],
) -> None:
    """Graphs with pictures in them are stepped over: 70 MiB, far more than is read whole."""
    picture = b"A" * 2**20

    async def large(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        is_queue = request.path == "/queue"
        begin = b'[0, "%s", {"1": {"inputs": {"x": NaN, "image": "' % PROMPT_ID.encode()
        end = b'"}}}, {"create_time": 1}, []]'
        begin = (b'{"queue_pending": [], "queue_running": [' if is_queue else HISTORY) + begin
        await response.write(begin)
        for _ in range(70):
            await response.write(picture)
        await response.write(end + (b"]}" if is_queue else b', "outputs": {"9": {}}}}'))
        return response

    app = web.Application()
    app.router.add_get("/{path:.*}", large)
    async with TestServer(app) as server:
        cluster = await connected(f"127.0.0.1:{server.port}")
        client = client_of(cluster)
        assert (await client.queue()).running == {PROMPT_ID}
        entry = await client.history(PROMPT_ID)
    assert entry == {"prompt": [0, None, None], "outputs": {"9": {}}}
    assert cluster.instances[0].breaker.consecutive_failures == 0


async def test_hung_instance(cluster: Cluster, worker: EmbeddedWorker, clock: ManualClock) -> None:
    """An answer that does not come within the timeout is an InstanceTimeoutError and a strike."""
    worker.faults.hang = ("/history",)
    errors: list[InstanceError] = []

    async def ask() -> None:
        try:
            await client_of(cluster).history(PROMPT_ID)
        except InstanceError as error:
            errors.append(error)

    cluster.spawn(ask())
    await eventually(lambda: clock.waiting)
    await clock.advance(60)
    await eventually(lambda: errors)
    assert isinstance(errors[0], InstanceTimeoutError)
    assert cluster.instances[0].breaker.consecutive_failures == 1


async def test_silent_download(
    connected: Callable[..., Awaitable[Cluster]], clock: ManualClock
) -> None:
    """A download may be long, but not silent for longer than the timeout."""

    async def stalling(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 100
        await response.prepare(request)
        await response.write(b"beginning")
        await release.wait()
        return response

    release = asyncio.Event()
    app = web.Application()
    app.router.add_get("/view", stalling)
    errors: list[InstanceError] = []
    async with TestServer(app) as server:
        cluster = await connected(f"127.0.0.1:{server.port}")

        async def download() -> None:
            try:
                await client_of(cluster).view(FILE, into)
            except InstanceError as error:
                errors.append(error)

        into = StoredBytes()
        cluster.spawn(download())
        await eventually(lambda: into.size and clock.waiting == 1)
        await clock.advance(61)
        await eventually(lambda: errors)
        release.set()
    assert isinstance(errors[0], InstanceTimeoutError)


async def test_compressing_server(connected: Callable[..., Awaitable[Cluster]]) -> None:
    """A server that compresses for whoever accepts it (a switch of ComfyUI's) is asked not to."""

    async def stats(request: web.Request) -> web.Response:
        response = web.json_response({"system": {"os": "x" * 2000}})
        response.enable_compression()
        return response

    async def queue(request: web.Request) -> web.Response:
        response = web.json_response({"queue_running": [], "queue_pending": [[1, "p" * 2000]]})
        response.enable_compression()
        return response

    app = web.Application()
    app.router.add_get("/system_stats", stats)
    app.router.add_get("/queue", queue)
    async with TestServer(app) as server:
        cluster = await connected(f"127.0.0.1:{server.port}")
        await client_of(cluster).check(0.3)
        assert len((await client_of(cluster).queue()).pending) == 1
