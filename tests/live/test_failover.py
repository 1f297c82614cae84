"""A real ComfyUI is killed under twenty jobs and comes back (needs scripts/live-comfyui)."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestClient
from PIL import Image

Client = TestClient[web.Request, web.Application]
TIMED = {
    "title": "Timed",
    "description": "Takes half a second.",
    "parameters": {"salt": {"type": "integer", "default": 0}},
    "scale": 1,
    "variants": [
        {
            "name": "timed",
            "graph": {
                "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
                "2": {
                    "class_type": "TimedPass",
                    "inputs": {"image": ["1", 0], "seconds": 0.5, "salt": 0},
                },
            },
            "bind": {"1.image": "$picture", "2.salt": "$salt"},
            "output": ["2", 0],
        }
    ],
}
INTERVAL_S = 5.0


def kill(directory: Path) -> None:
    os.kill(int(Path(directory, "server.pid").read_text()), signal.SIGKILL)


def start(directory: Path) -> None:
    """In a session of its own: it outlives the test."""
    subprocess.run(
        ["setsid", "--fork", str(Path(directory, "start"))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )


def tile(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (number, 255 - number, 7)).save(buffer, "PNG")
    return buffer.getvalue()


async def submit(client: Client, number: int) -> dict[str, Any]:
    form = aiohttp.FormData({"salt": str(number)})
    form.add_field("imageFile", tile(number), filename="p.png")
    async with client.post("/api/workflows/timed", data=form) as response:
        assert response.status == 202
        job: dict[str, Any] = await response.json()
        return job


async def finish(client: Client, job: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    async with client.get(f"{job['result_url']}?wait=300") as response:
        body = await response.read()
        assert response.status == 200, body
    async with client.get(job["status_url"]) as response:
        return await response.json(), body


async def healthy(client: Client, count: int) -> None:
    """Return when that many instances are healthy; the checks of the proxy itself tell."""
    while True:
        async with client.get("/health") as response:
            if (await response.json())["comfyui_instances"]["healthy"] == count:
                return
        await asyncio.sleep(0.2)


async def test_twenty_jobs_survive_a_kill_and_the_server_is_used_again(
    start_proxy: Any,
    tmp_path: Path,
    live_urls: tuple[str, str],
    live_directories: tuple[Path, Path],
    live_test_nodes: None,
) -> None:
    """kill -9 of one of two servers under twenty jobs loses none; restarted, it works again."""
    (tmp_path / "timed.json").write_text(json.dumps(TIMED))
    client: Client = await start_proxy(
        *live_urls, workflow_directory=tmp_path, health_check_interval_s=INTERVAL_S
    )
    jobs = [await submit(client, number) for number in range(20)]
    async with client.get(jobs[0]["status_url"] + "?wait=60") as response:
        assert (await response.json())["status"] in ("processing", "completed")
    victim = 0
    kill(live_directories[0])
    try:
        done = await asyncio.gather(*(finish(client, job) for job in jobs))
    finally:
        start(live_directories[0])
    for number, (status, body) in enumerate(done):
        assert status["status"] == "completed"
        with Image.open(io.BytesIO(body)) as picture:
            assert picture.getpixel((0, 0)) == (number, 255 - number, 7)
    assert len({status["prompt_id"] for status, _ in done}) == 20
    assert any(status["attempts"] > 1 for status, _ in done)
    async with asyncio.timeout(120):
        await healthy(client, 2)
        again = [await submit(client, 100 + number) for number in range(6)]
        used = {(await finish(client, job))[0]["comfyui_instance"] for job in again}
    assert any(instance in live_urls[victim] for instance in used)
