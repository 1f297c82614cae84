"""Two upscale models of different size at two real servers: each stays where it is loaded."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from direct import run_direct
from served_proxy import served

Json = dict[str, Any]
MODELS = ("4x-tiny-esrgan.pth", "large-esrgan.pth")
PROMPTS = 20
ORDER = [0, 1, *(random.Random(11).randrange(2) for _ in range(PROMPTS))]
"""Which model each prompt uses: one of each, then at random. In turn they would be apart by chance
wherever prompts go to the instances in turn."""
PATIENCE_S = 300.0
LOADER = "2"


@pytest.fixture
def large_model(live_directories: tuple[Path, Path]) -> Iterator[None]:
    """There only for this test: others compare what the servers list."""
    files = [one / "models/upscale_models" / MODELS[1] for one in live_directories]
    for file in files:
        shutil.copy(os.environ["COMFY_LIVE_LARGE_MODEL"], file)
    yield
    for file in files:
        file.unlink()


def graph(model: str, color: int) -> Json:
    picture = {"width": 24, "height": 16, "batch_size": 1, "color": color}
    return {
        "1": {"class_type": "EmptyImage", "inputs": picture},
        LOADER: {"class_type": "UpscaleModelLoader", "inputs": {"model_name": model}},
        "3": {
            "class_type": "ImageUpscaleWithModel",
            "inputs": {"upscale_model": [LOADER, 0], "image": ["1", 0]},
        },
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }


class Client:
    """Posts through the proxy, and hears on one socket how each prompt ran."""

    def __init__(self, http: aiohttp.ClientSession, base: int) -> None:
        self._http = http
        self._id = uuid.uuid4().hex
        self._base = base
        self._ended: dict[str, asyncio.Future[Json]] = {}
        self.loads = 0

    async def listen(self) -> None:
        async with self._http.ws_connect(f"/ws?clientId={self._id}", max_msg_size=0) as socket:
            files: Json = {}
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    continue
                frame = json.loads(message.data)
                ended = self._ended.get(frame["data"].get("prompt_id"))
                if ended is None:
                    continue
                if frame["type"] == "execution_cached":
                    self.loads += LOADER not in frame["data"]["nodes"]
                if frame["type"] == "executed":
                    files = frame["data"]["output"]["images"][0]
                if frame["type"] == "execution_success":
                    ended.set_result(files)

    async def run(self, number: int) -> bytes:
        """The picture of the prompt of this number."""
        prompt_id = str(uuid.uuid4())
        self._ended[prompt_id] = asyncio.get_running_loop().create_future()
        prompt = graph(MODELS[ORDER[number]], self._base + number)
        body = {"prompt": prompt, "prompt_id": prompt_id, "client_id": self._id}
        async with self._http.post("/prompt", json=body) as answer:
            assert answer.status == 200, await answer.text()
        async with self._http.get("/view", params=await self._ended[prompt_id]) as answer:
            assert answer.status == 200
            return await answer.read()


async def test_each_model_is_loaded_once(
    live_urls: tuple[str, str], large_model: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twenty prompts of two models, after one of each has told what they cost: a model is
    loaded where it was before, and what comes out is what a server alone makes of it."""
    base = uuid.uuid4().int % 2**23
    async with (
        asyncio.timeout(PATIENCE_S),
        served(*live_urls) as proxy,
        aiohttp.ClientSession(proxy.url) as http,
    ):
        client = Client(http, base)
        listening = asyncio.create_task(client.listen())
        for number in range(2):
            await client.run(number)
        learnt, client.loads = client.loads, 0
        pictures = await asyncio.gather(*(client.run(2 + number) for number in range(PROMPTS)))
        listening.cancel()
    with capsys.disabled():
        print(f" loads: {learnt} to learn, then {client.loads} for {PROMPTS} prompts", end=" ")
    assert client.loads <= 4
    for number in (2, PROMPTS + 1):
        alone = await run_direct(live_urls[0], graph(MODELS[ORDER[number]], base + number))
        assert pictures[number - 2] == alone
