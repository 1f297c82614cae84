"""``setup()`` in somebody else's application, several in one process, and nothing left behind."""

from __future__ import annotations

import asyncio
import io
import os
import threading
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from aiohttp import log as aiohttp_log
from aiohttp import web
from aiohttp.typedefs import Handler
from hosting import Serve, settings
from job_client import encode, form, noise, until
from PIL import Image

from comfy_proxy import create_app, setup
from comfy_proxy.counted_response import LARGE
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.jobs.service import JobService
from comfy_proxy.keys import CLUSTER, JOBS, METRICS, REQUEST_OBSERVERS

Pair = tuple[EmbeddedWorker, EmbeddedWorker]


async def run_job(session: aiohttp.ClientSession, url: str, picture: bytes) -> int:
    """How many bytes the result of a synchronous job has."""
    async with session.post(
        f"{url}/api/upscale-image?scale=1", data=form(picture), headers={"Accept": "image/png"}
    ) as answer:
        assert answer.status == 200, await answer.text()
        return len(await answer.read())


async def test_the_host_s_routes_win(
    workers: Pair, serve: Serve, session: aiohttp.ClientSession
) -> None:
    """First the host's, then ours, everything else goes to ComfyUI."""

    async def mine(request: web.Request) -> web.Response:
        return web.json_response({"mine": request.path})

    app = web.Application()
    app.router.add_get("/", mine)
    app.router.add_get("/health", mine)
    app.router.add_post("/api/upscale-image", mine)
    setup(app, settings(*workers))
    url = await serve(app)
    for method, path in (("GET", "/"), ("GET", "/health"), ("POST", "/api/upscale-image")):
        async with session.request(method, url + path) as answer:
            assert await answer.json() == {"mine": path}
            assert "X-Request-ID" not in answer.headers
    async with session.get(f"{url}/health/live") as answer:
        assert await answer.json() == {"status": "alive"}
    async with session.post(f"{url}/api/remove-background", data=form()) as answer:
        assert answer.status == 202
    async with session.get(f"{url}/queue") as answer:
        assert set(await answer.json()) == {"queue_running", "queue_pending"}


async def test_each_404_is_of_whom_it_was_asked(
    workers: Pair, serve: Serve, session: aiohttp.ClientSession
) -> None:
    """The host's own is the host's; ours says where our API is described; else it is ComfyUI's."""

    async def mine(request: web.Request) -> web.Response:
        raise web.HTTPNotFound(text="mine")

    app = web.Application()
    app.router.add_get("/mine", mine)
    setup(app, settings(*workers))
    url = await serve(app)
    for path, text in (("/mine", "mine"), ("/api/nonsense", "")):
        async with session.get(url + path) as answer:
            assert (answer.status, await answer.text()) == (404, text)
    async with session.get(f"{url}/api/jobs/nobody/status") as answer:
        assert (answer.status, (await answer.json())["details"]) == (404, {"docs": "/api/docs"})


async def test_the_host_s_limit_is_not_ours(
    workers: Pair, serve: Serve, session: aiohttp.ClientSession
) -> None:
    """A 2 MB upload works where the host keeps aiohttp's 1 MiB, whose own routes keep it too."""

    async def mine(request: web.Request) -> web.Response:
        return web.json_response({"size": len(await request.read())})

    app = web.Application()
    app.router.add_post("/mine", mine)
    setup(app, settings(*workers))
    url = await serve(app)
    picture = noise(64, 64) + bytes(2_000_000)
    assert await run_job(session, url, picture) > 0
    async with session.post(f"{url}/mine", data=io.BytesIO(bytes(2_000_000))) as answer:
        assert answer.status == 413


async def test_two_applications_in_one_process(
    workers: Pair, serve: Serve, session: aiohttp.ClientSession
) -> None:
    """Each has its own instances and jobs; one knows nothing of the other."""
    urls = [await serve(create_app(settings(worker))) for worker in workers]
    for url, worker in zip(urls, workers, strict=True):
        async with session.post(f"{url}/api/upscale-image", data=form()) as answer:
            job = await answer.json()
        async with session.get(f"{url}{job['result_url']}?wait=20") as answer:
            assert answer.status == 200
        async with session.get(f"{url}{job['status_url']}") as answer:
            assert (await answer.json())["comfyui_instance"] == worker.host
        for other in urls:
            async with session.get(f"{other}{job['status_url']}") as answer:
                assert answer.status == (200 if other == url else 404)
    assert [len(worker.started) for worker in workers] == [1, 1]


async def test_a_host_s_middleware_has_its_say(
    workers: Pair, serve: Serve, session: aiohttp.ClientSession
) -> None:
    """Also about a picture of ours that is sent in pieces elsewhere."""

    @web.middleware
    async def mark(request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await handler(request)
        answer.headers["X-Host"] = "was here"
        return answer

    app = web.Application(middlewares=[mark])
    setup(app, settings(*workers))
    url = await serve(app)
    large = encode(Image.effect_noise((600, 600), 90))
    headers = {"Accept": "image/png"}
    async with session.post(
        f"{url}/api/upscale-image?scale=1", data=form(large), headers=headers
    ) as answer:
        assert len(await answer.read()) > LARGE
        assert answer.headers["X-Host"] == "was here"


def ours_now() -> tuple[set[str], int]:
    """Threads by name, the event loop's own pool apart, and how many sockets are open."""
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    sockets = sum(os.readlink(link).startswith("socket:") for link in links if os.path.islink(link))
    names = {thread.name for thread in threading.enumerate()}
    return {name for name in names if not name.startswith("asyncio_")}, sockets


@pytest.mark.long
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="the system does not tell")
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "in the middle of jobs"])
async def test_start_and_stop_leave_nothing(
    workers: Pair, session: aiohttp.ClientSession, busy: bool
) -> None:
    """No task, no thread and no socket outlives the application, whatever it was doing."""
    tasks, (threads, sockets) = asyncio.all_tasks(), ours_now()
    for worker in workers:
        worker.faults.slow_node_s = 60 if busy else 0
    async with AsyncExitStack() as stack:
        runner = web.AppRunner(create_app(settings(*workers)), shutdown_timeout=1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        for _ in range(8):
            async with session.post(f"{url}/api/upscale-image", data=form(noise())) as answer:
                job = await answer.json()
        if busy:
            await until(lambda: all(worker.started for worker in workers))
        else:
            async with session.get(f"{url}{job['result_url']}?wait=20") as answer:
                assert answer.status == 200
    await until(lambda: asyncio.all_tasks() <= tasks)
    assert ours_now()[0] <= threads
    await until(lambda: ours_now()[1] <= sockets)


@pytest.mark.parametrize("fails", ["start", "close"])
async def test_what_fails_half_way_leaves_nothing(
    workers: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: str
) -> None:
    """One room cannot start or end: those begun before it are ended, the logs too."""
    tasks, (threads, sockets) = asyncio.all_tasks(), ours_now()
    filters = aiohttp_log.server_logger.filters[:]

    async def fail(_: JobService) -> None:
        raise RuntimeError("the room is on fire")

    real_close = JobService.close
    monkeypatch.setattr(JobService, fails, fail)
    app = create_app(settings(*workers, log_directory=tmp_path))
    runner = web.AppRunner(app, shutdown_timeout=1)
    if fails == "start":
        with pytest.raises(RuntimeError, match="on fire"):
            await runner.setup()
    else:
        await runner.setup()
        with pytest.raises(RuntimeError, match="on fire"):
            await runner.cleanup()
        await real_close(app[JOBS])
    await until(lambda: asyncio.all_tasks() <= tasks)
    assert ours_now()[0] <= threads
    await until(lambda: ours_now()[1] <= sockets)
    assert aiohttp_log.server_logger.filters == filters


@pytest.mark.long
@pytest.mark.logs_faults
async def test_a_watcher_that_fails_harms_nobody(
    workers: Pair, serve: Serve, session: aiohttp.ClientSession, picture: bytes
) -> None:
    """Requests, jobs and instances are what they would be without it; the others are told."""
    app, told = create_app(settings(*workers)), []

    def fail(_: object) -> None:
        raise RuntimeError

    app[REQUEST_OBSERVERS][:0] = [fail]
    app[REQUEST_OBSERVERS].append(told.append)
    for instance in app[CLUSTER].instances:
        instance.observers[:0] = [fail]
        instance.on_circuit[:0] = [fail]
    app[JOBS].manager.on_finished[:0] = [fail]
    url = await serve(app)
    assert await run_job(session, url, picture) > 0
    async with session.get(f"{url}/health/live") as answer:
        assert await answer.json() == {"status": "alive"}
    assert [record.path for record in told] == ["/api/upscale-image", "/health/live"]
    assert app[METRICS].jobs.outcomes()["completed"] == 1
