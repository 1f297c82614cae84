"""``comfy-proxy demo``: two CPU workers, the proxy in front, real photographs through both jobs."""

from __future__ import annotations

import asyncio
import io
import signal
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiohttp import web
from PIL import Image

from comfy_proxy.app import create_app
from comfy_proxy.embedded.process import WorkerProcess
from comfy_proxy.settings import Settings, load_settings, parse_instance

PICTURES = Path(__file__).parent / "pictures"


@dataclass(frozen=True)
class _Task:
    endpoint: str
    picture: str
    parameters: dict[str, str]


_TASKS = (
    _Task("remove-background", "coffee.png", {}),
    _Task("upscale-image", "chelsea.png", {"scale": "2"}),
    _Task("remove-background", "chelsea.png", {"format": "WEBP"}),
    _Task("upscale-image", "rocket.jpg", {"scale": "1.5", "format": "JPEG"}),
)


async def run_demo(*, output: Path, keep: bool, port: int = 0) -> int:
    """Run the demonstration; returns the exit code, 0 if every job completed.

    The results are written into ``output``. Each step is printed before it begins. With ``keep``
    everything runs on until ^C. The proxy listens at ``port``, 0 takes a free one. Raises
    WorkerProcessError if a worker does not start, OSError if the port cannot be had or a result
    cannot be written.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="comfy-proxy-demo-")))
        workers = [
            WorkerProcess(base_directory=folder / name, name=name) for name in ("gpu-1", "gpu-2")
        ]
        for number, worker in enumerate(workers, start=1):
            print(f"starting embedded CPU worker {number} of {len(workers)} (OpenCV, no GPU) …")
            await stack.enter_async_context(worker)
            print(f"  it listens on {worker.url}")
        print("starting the proxy in front of them …")
        settings = replace(
            load_settings({}),
            instances=tuple(parse_instance(worker.url) for worker in workers),
            log_directory=folder / "logs",
        )
        url = await stack.enter_async_context(_Proxy(settings, port))
        print(f"  it listens on {url}; dashboard: {url}/dashboard")
        print(f"running {len(_TASKS)} jobs at once …")
        async with aiohttp.ClientSession(url) as session:
            done = await asyncio.gather(*(_run(session, task, output) for task in _TASKS))
        print(f"{sum(done)} of {len(done)} pictures are in {output}")
        if keep:
            await _until_stopped(url)
        else:
            print("stopping the proxy and the workers; --keep leaves them running")
    return 0 if all(done) else 1


class _Proxy:
    """The proxy in this process, from entry to exit; at port 0 it takes a free one."""

    def __init__(self, settings: Settings, port: int) -> None:
        self._port = port
        self._runner = web.AppRunner(
            create_app(settings), handler_cancellation=True, access_log=None
        )

    async def __aenter__(self) -> str:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        try:
            await site.start()
        except OSError:
            await self._runner.cleanup()
            raise
        port = self._runner.addresses[0][1]
        return f"http://127.0.0.1:{port}"

    async def __aexit__(self, *exception: object) -> None:
        await self._runner.cleanup()


async def _run(session: aiohttp.ClientSession, task: _Task, output: Path) -> bool:
    """One job as a client runs it: post, follow the events, fetch the result. True if it worked."""
    form = aiohttp.FormData(task.parameters)
    data = (PICTURES / task.picture).read_bytes()
    form.add_field("imageFile", data, filename=task.picture)
    label = f"{task.endpoint} {task.picture}"
    async with session.post(f"/api/{task.endpoint}", data=form) as response:
        job = await response.json()
        if response.status != 202:
            print(f"{label}: {response.status} {job['error']}")
            return False
    print(f"{label}: 202, job {job['job_id']}")
    status = await _follow(session, job["events_url"], label)
    if status["status"] != "completed":
        print(f"{label}: failed: {status['error']['message']}")
        return False
    async with session.get(status["result_url"]) as response:
        body = await response.read()
    with Image.open(io.BytesIO(body)) as picture:
        picture.load()
        measure = f"{picture.width}x{picture.height} {picture.mode} {picture.format}"
        extension = str(picture.format).lower()
    path = output / f"{Path(task.picture).stem}-{task.endpoint}.{extension}"
    path.write_bytes(body)
    print(
        f"{label}: {measure} by {status['comfyui_instance']}"
        f" in {status['processing_time_seconds']:.2f} s -> {path}"
    )
    return True


async def _follow(session: aiohttp.ClientSession, url: str, label: str) -> dict[str, Any]:
    """Print progress as it comes, at most each quarter; returns the last status object."""
    status: dict[str, Any] = {}
    shown = -1
    async with session.get(url) as response:
        async for line in response.content:
            if not line.startswith(b"data: "):
                continue
            status = orjson.loads(line[6:])
            percentage = int(status["progress_percentage"]) // 25 * 25
            if status["status"] == "processing" and percentage > shown:
                shown = percentage
                print(f"{label}: {status['progress_percentage']} % on {status['comfyui_instance']}")
    return status


async def _until_stopped(url: str) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    print(f"still running at {url}, dashboard: {url}/dashboard (Ctrl-C ends it); try:")
    print(f"  curl -F imageFile=@photo.png {url}/api/remove-background")
    await stopped.wait()
