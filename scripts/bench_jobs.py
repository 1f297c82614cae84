"""The job API against the best client without a proxy, side by side in one run.

Two simulated instances (the embedded worker in processes of its own, one prompt at a time, a fixed
service time for each prompt). In each round: 40 jobs of 200 ms and 40 mixed ones of 50 to 800 ms,
through the proxy and by a direct client (event driven, two prompts in flight at each instance).

pair efficiency = (sum of service times / 2) / makespan
overhead of a job = wall time from POST to result, less the service time, of jobs one by one
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import random
import socket
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
from PIL import Image
from timed_workflow import write_workflows

from comfy_proxy.embedded.process import WorkerProcess

JOBS = 40
UNIFORM = [0.2] * JOBS
SINGLE_JOBS = 20

Run = Callable[[float], Awaitable[None]]


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = picture()


class Proxy:
    """A client of the job API."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def run(self, seconds: float) -> None:
        form = aiohttp.FormData({"seconds": str(seconds), "salt": str(random.getrandbits(31))})
        form.add_field("imageFile", PICTURE, filename="p.png")
        async with self._session.post(f"{self._url}/api/workflows/timed", data=form) as response:
            job = await response.json()
            assert response.status == 202, job
        async with self._session.get(f"{self._url}{job['result_url']}?wait=300") as response:
            body = await response.read()
            assert response.status == 200, body

    async def burst(self, times: Sequence[float]) -> None:
        await asyncio.gather(*(self.run(seconds) for seconds in times))


class Direct:
    """The best client without a proxy: a socket for each instance, two prompts in flight there."""

    def __init__(self, session: aiohttp.ClientSession, urls: Sequence[str]) -> None:
        self._session = session
        self._urls = urls
        self._ended: dict[str, asyncio.Future[None]] = {}
        self._readers: list[asyncio.Task[None]] = []
        self._clients: dict[str, str] = {}

    async def open(self) -> None:
        for url in self._urls:
            self._clients[url] = uuid.uuid4().hex
            ws = await self._session.ws_connect(
                f"{url}/ws?clientId={self._clients[url]}", max_msg_size=0
            )
            await ws.send_str('{"type":"feature_flags","data":{"supports_preview_metadata":true}}')
            self._readers.append(asyncio.create_task(self._read(ws)))

    async def close(self) -> None:
        for reader in self._readers:
            reader.cancel()
        await asyncio.wait(self._readers)

    async def _read(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        async for message in ws:
            if message.type is aiohttp.WSMsgType.TEXT:
                frame = json.loads(message.data)
                if frame["type"] == "execution_success":
                    self._ended[frame["data"]["prompt_id"]].set_result(None)

    async def run_at(self, url: str, seconds: float) -> None:
        form = aiohttp.FormData()
        form.add_field("image", PICTURE, filename="bench.png")
        async with self._session.post(f"{url}/upload/image", data=form) as response:
            name = (await response.json())["name"]
        prompt_id = str(uuid.uuid4())
        ended = self._ended[prompt_id] = asyncio.get_running_loop().create_future()
        graph = {
            "1": {"class_type": "LoadImage", "inputs": {"image": name}},
            "2": {
                "class_type": "TimedPass",
                "inputs": {
                    "image": ["1", 0],
                    "seconds": seconds,
                    "salt": random.getrandbits(31),
                },
            },
            "3": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["2", 0]}},
        }
        body = {"prompt": graph, "prompt_id": prompt_id, "client_id": self._clients[url]}
        async with self._session.post(f"{url}/prompt", json=body) as response:
            assert response.status == 200, await response.text()
        await ended

    async def run(self, seconds: float) -> None:
        await self.run_at(self._urls[0], seconds)

    async def burst(self, times: Sequence[float]) -> None:
        left = list(times)

        async def worker(url: str) -> None:
            while left:
                await self.run_at(url, left.pop(0))

        await asyncio.gather(*(worker(url) for url in self._urls for _ in range(2)))


async def efficiency(client: Proxy | Direct, times: Sequence[float]) -> float:
    begun = time.perf_counter()
    await client.burst(times)
    return sum(times) / 2 / (time.perf_counter() - begun)


async def overhead_ms(run: Run, seconds: float = 0.05) -> float:
    walls = []
    for _ in range(SINGLE_JOBS):
        begun = time.perf_counter()
        await run(seconds)
        walls.append(time.perf_counter() - begun - seconds)
    return statistics.median(walls) * 1000


@asynccontextmanager
async def proxy_process(urls: Sequence[str], templates: Path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {
        **os.environ,
        "COMFYUI_HOST_1": urls[0],
        "COMFYUI_HOST_2": urls[1],
        "PORT": str(port),
        "LOG_LEVEL": "warn",
        "WORKFLOW_DIRECTORY": str(templates),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "comfy_proxy", "serve", env=environ
    )
    url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession() as session:
        for _ in range(100):
            try:
                async with session.get(f"{url}/health/ready") as response:
                    if response.status == 200:
                        break
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.1)
    try:
        yield url
    finally:
        process.terminate()
        await process.wait()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=20261123)
    options = parser.parse_args()
    shuffler = random.Random(options.seed)
    mixed = [shuffler.uniform(0.05, 0.8) for _ in range(JOBS)]
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_workflows(folder / "templates")
        workers = [
            WorkerProcess(base_directory=folder / name, name=name, test_nodes=True)
            for name in ("one", "two")
        ]
        for worker in workers:
            await stack.enter_async_context(worker)
        urls = [worker.url for worker in workers]
        url = await stack.enter_async_context(proxy_process(urls, folder / "templates"))
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )
        proxy, direct = Proxy(session, url), Direct(session, urls)
        await direct.open()
        await proxy.burst([0.05] * 6)  # sockets open, everything loaded
        await direct.burst([0.05] * 6)
        rows: dict[str, list[tuple[float, float]]] = {"uniform": [], "mixed": [], "overhead": []}
        print("round   uniform proxy/direct   mixed proxy/direct   overhead ms proxy/direct")
        for number in range(1, options.rounds + 1):
            uniform_ = (await efficiency(proxy, UNIFORM), await efficiency(direct, UNIFORM))
            mixed_ = (await efficiency(proxy, mixed), await efficiency(direct, mixed))
            single = (await overhead_ms(proxy.run), await overhead_ms(direct.run))
            for name, pair in zip(rows, (uniform_, mixed_, single), strict=True):
                rows[name].append(pair)
            print(
                f"{number:5}   {uniform_[0]:.3f} / {uniform_[1]:.3f}          "
                f"{mixed_[0]:.3f} / {mixed_[1]:.3f}        {single[0]:.1f} / {single[1]:.1f}"
            )
        for name, pairs in rows.items():
            ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
            print(
                f"median {name}: proxy {ours:.3f}, direct {theirs:.3f}, ratio {ours / theirs:.3f}"
            )
        await direct.close()


if __name__ == "__main__":
    asyncio.run(main())
