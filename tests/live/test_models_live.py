"""Two upscale models of different size at two real servers: each stays where it is loaded.

A load is a line that the custom node `CountedModelLoader` writes when it has read the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from direct import run_direct
from served_proxy import served

Json = dict[str, Any]
MODELS = ("esrgan-8-blocks.pth", "esrgan-20-blocks.pth")
OTHER_MODEL = "4x-tiny-esrgan.pth"
PROMPTS = 24
_CHANCE = random.Random(12)
ORDER = [_CHANCE.randrange(len(MODELS)) for _ in range(PROMPTS)]
"""Which model each prompt uses: at random, but in every run the same. In turn they would be apart
by chance wherever prompts go to the instances in turn."""
GAPS = [_CHANCE.expovariate(1.0) for _ in range(PROMPTS)]
"""Before each prompt of a stream, as a multiple of the mean."""
MOST_LOADS = 7
"""Without regard to models there are 11 to 16; a few are worth it when a queue is long."""
PATIENCE_S = 240.0


@pytest.fixture
def models(live_directories: tuple[Path, Path]) -> Iterator[None]:
    """There only for this test: others compare what the servers list."""
    there = Path(os.environ["COMFY_LIVE_MODELS"])
    links = [
        (one / "models/upscale_models" / name, there / name)
        for one in live_directories
        for name in MODELS
    ]
    for link, file in links:
        link.symlink_to(file)
    yield
    for link, _ in links:
        link.unlink()


def graph(model: str, color: int) -> Json:
    picture = {"width": 8, "height": 8, "batch_size": 1, "color": color}
    return {
        "1": {"class_type": "EmptyImage", "inputs": picture},
        "2": {"class_type": "CountedModelLoader", "inputs": {"model_name": model}},
        "3": {
            "class_type": "ImageUpscaleWithModel",
            "inputs": {"upscale_model": ["2", 0], "image": ["1", 0]},
        },
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }


def graphs() -> list[Json]:
    """What the prompts are, in their order; no two pictures are alike, in this run or another."""
    colors = random.Random(uuid.uuid4().int).sample(range(2**24), PROMPTS)
    return [graph(MODELS[which], color) for which, color in zip(ORDER, colors, strict=True)]


def loads(directories: tuple[Path, Path]) -> int:
    """How many models both servers have read from the disk since they were started."""
    files = (one / "loads.txt" for one in directories)
    return sum(len(file.read_text().splitlines()) for file in files if file.exists())


async def run_alone(url: str, prompts: Sequence[Json]) -> tuple[list[bytes], float]:
    """What one server makes of ``prompts``, in their order, and the mean seconds that a prompt
    takes it when its model is loaded."""
    pictures: list[bytes] = [b""] * PROMPTS
    means: list[float] = [0.0] * len(MODELS)
    for which, model in enumerate(MODELS):
        seconds = []
        await run_direct(url, graph(model, _a_color()))
        for number in (number for number, one in enumerate(ORDER) if one == which):
            begun = time.monotonic()
            pictures[number] = await run_direct(url, prompts[number])
            seconds.append(time.monotonic() - begun)
        means[which] = statistics.median(seconds)
    return pictures, statistics.mean(means[which] for which in ORDER)


def _a_color() -> int:
    return uuid.uuid4().int % 2**24


class Client:
    """Posts through the proxy, and hears on one socket how each prompt ended."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http
        self._id = uuid.uuid4().hex
        self._ended: dict[str, asyncio.Future[Json]] = {}

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Its socket is open while the block runs."""
        url = f"/ws?clientId={self._id}"
        async with self._http.ws_connect(url, max_msg_size=0) as socket:
            reading = asyncio.create_task(self._read(socket))
            yield
            reading.cancel()

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        files: dict[str, Json] = {}
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            frame = json.loads(message.data)
            prompt_id = frame["data"].get("prompt_id")
            if frame["type"] == "executed":
                files[prompt_id] = frame["data"]["output"]["images"][0]
            elif frame["type"] == "execution_success":
                self._ended[prompt_id].set_result(files[prompt_id])
            elif frame["type"] == "execution_error":
                self._ended[prompt_id].set_exception(AssertionError(frame["data"]))

    async def run(self, prompt: Json) -> tuple[Json, float]:
        """Where the picture of this prompt is, and how many seconds its end took to be heard."""
        begun, prompt_id = time.monotonic(), str(uuid.uuid4())
        ended = self._ended[prompt_id] = asyncio.get_running_loop().create_future()
        body = {"prompt": prompt, "prompt_id": prompt_id, "client_id": self._id}
        async with self._http.post("/prompt", json=body) as answer:
            assert answer.status == 200, await answer.text()
        return await ended, time.monotonic() - begun

    async def picture(self, file: Json) -> bytes:
        async with self._http.get("/view", params=file) as answer:
            assert answer.status == 200
            return await answer.read()


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How the prompts went through a proxy: their pictures, and what they took."""

    pictures: list[bytes] = field(repr=False)
    loads: int
    latency_s: float
    makespan_s: float

    def __str__(self) -> str:
        return (
            f"{self.loads} loads, mean latency {self.latency_s:.2f} s,"
            f" makespan {self.makespan_s:.2f} s"
        )


async def run_proxied(
    client: Client, prompts: Sequence[Json], directories: tuple[Path, Path], gap_s: float
) -> Measured:
    """Each prompt is posted at its time, ``gap_s`` on average after the one before it."""

    async def at(seconds: float, prompt: Json) -> tuple[Json, float]:
        await asyncio.sleep(seconds)
        return await client.run(prompt)

    loaded, begun = loads(directories), time.monotonic()
    times = [gap_s * sum(GAPS[:number]) for number in range(PROMPTS)]
    ran = await asyncio.gather(*(at(*one) for one in zip(times, prompts, strict=True)))
    makespan_s = time.monotonic() - begun
    return Measured(
        loads=loads(directories) - loaded,
        latency_s=statistics.mean(seconds for _, seconds in ran),
        makespan_s=makespan_s,
        pictures=[await client.picture(file) for file, _ in ran],
    )


async def test_models_stay_where_they_are_loaded(
    live_urls: tuple[str, str],
    live_directories: tuple[Path, Path],
    models: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Prompts of two models at random cause few loads, as a stream, at half of what both servers do
    when nothing has to be loaded, and all at once before and after it; what comes out is what a
    server alone makes. One prompt of each model has taught the proxy what they cost."""
    prompts = graphs()
    async with asyncio.timeout(PATIENCE_S):
        alone, run_s = await run_alone(live_urls[0], prompts)
        for url in live_urls:  # so that neither has one of the models at the beginning
            await run_direct(url, graph(OTHER_MODEL, _a_color()))
        async with served(*live_urls) as proxy, aiohttp.ClientSession(proxy.url) as http:
            client = Client(http)
            async with client.listening():
                for model in MODELS:
                    await client.run(graph(model, _a_color()))
                measured = [
                    await run_proxied(client, prompts, live_directories, gap_s)
                    for gap_s in (0.0, run_s, 0.0)
                ]
    with capsys.disabled():
        print(f"\n{PROMPTS} prompts that run {run_s:.2f} s on average")
        for arrivals, ran in zip(("first burst", "stream", "burst"), measured, strict=True):
            print(f"{arrivals}: {ran}")
    for ran in measured:
        assert ran.pictures == alone
        assert ran.loads <= MOST_LOADS
