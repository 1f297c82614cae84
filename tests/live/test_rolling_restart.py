"""Both real servers are restarted one after the other under load, with a drain before: nobody
notices (needs scripts/live-comfyui)."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from prompts_front import get, graph, listening, post
from test_failover import TIMED, finish, healthy, start, submit

CLIENTS = 4
PROMPT_S = 0.3
PATIENCE_S = 120.0


class Load:
    """Clients with a socket, and those of the job API; ``unfetched`` are the colours of prompts
    that are under way, or whose picture has not been fetched yet."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._colours = itertools.count(1)
        self.unfetched: set[int] = set()
        self.stopping = False
        self.pictures: list[str] = []
        self.jobs: list[str] = []

    async def prompts(self) -> None:
        """One after the other: posted, heard, looked up, fetched."""
        async with listening(self._client) as listener:
            while not self.stopping:
                colour = next(self._colours)
                self.unfetched.add(colour)
                sent = graph(PROMPT_S, color=colour)
                prompt_id = await post(self._client, sent, client_id=listener.client_id)
                await when(partial(listener.over, prompt_id))
                await self._fetch(prompt_id, colour)
                self.unfetched.remove(colour)

    async def _fetch(self, prompt_id: str, colour: int) -> None:
        entry = (await get(self._client, f"/history/{prompt_id}"))[prompt_id]
        assert entry["status"]["status_str"] == "success"
        [image] = entry["outputs"]["3"]["images"]
        async with self._client.get("/view", params=image) as answer:
            body = await answer.read()
            assert answer.status == 200, body
        with Image.open(io.BytesIO(body)) as picture:
            assert picture.convert("RGB").getpixel((0, 0)) == (0, colour >> 8, colour & 255)
        self.pictures.append(image["subfolder"])

    async def job_api(self) -> None:
        """One job after the other."""
        while not self.stopping:
            job = await submit(self._client, next(self._colours) % 256)
            status, _ = await finish(self._client, job)
            assert status["status"] == "completed"
            self.jobs.append(status["comfyui_instance"])

    async def reads(self) -> None:
        """What a frontend asks for all the time."""
        while not self.stopping:
            for path in ("/queue", "/history?max_items=4", "/prompt", "/system_stats", "/settings"):
                await get(self._client, path)
            await asyncio.sleep(0.05)


async def when(condition: Callable[[], object]) -> None:
    """Return as soon as ``condition()`` holds; a real server takes its time."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def restart(client: Any, number: int, directory: Path, load: Load) -> None:
    """As an operator does it by the README."""
    async with client.post(f"/api/instances/{number}/drain?wait=120") as answer:
        assert answer.status == 200
        assert (await answer.json())["empty"]
    of_before = set(load.unfetched)
    await when(lambda: not of_before & load.unfetched)
    pid = int((directory / "server.pid").read_text())
    os.kill(pid, signal.SIGTERM)
    try:
        await when(lambda: not _runs(pid))
    finally:  # a failure meanwhile is that of this test alone: others need the server
        start(directory)
    await healthy(client, 1)
    await healthy(client, 2)
    async with client.post(f"/api/instances/{number}/resume") as answer:
        assert answer.status == 200


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.usefixtures("live_test_nodes")
async def test_a_rolling_restart_under_load_fails_no_request_and_loses_no_prompt(
    live_urls: tuple[str, str],
    live_directories: tuple[Path, Path],
    start_proxy: Any,
    tmp_path: Path,
) -> None:
    """Every answer is a 200 (or 202), every prompt ends with its own picture, and both instances
    work again afterwards."""
    (tmp_path / "timed.json").write_text(json.dumps(TIMED))
    client = await start_proxy(*live_urls, workflow_directory=tmp_path, health_check_interval_s=1.0)
    await healthy(client, 2)
    load = Load(client)
    works = [asyncio.create_task(load.prompts()) for _ in range(CLIENTS)]
    works += [asyncio.create_task(load.job_api()) for _ in range(2)]
    works.append(asyncio.create_task(load.reads()))
    rolling = asyncio.create_task(_rolling(client, live_directories, load))
    try:
        async with asyncio.timeout(300):
            done, _ = await asyncio.wait([rolling, *works], return_when=asyncio.FIRST_COMPLETED)
            load.stopping = True
            await asyncio.gather(*done, *works)
        assert rolling in done
    finally:
        for task in (rolling, *works):
            task.cancel()
        await asyncio.gather(rolling, *works, return_exceptions=True)


async def _rolling(client: Any, directories: tuple[Path, Path], load: Load) -> None:
    for number, directory in enumerate(directories, start=1):
        await restart(client, number, directory, load)
        load.pictures.clear()
        await when(lambda: f"@{number}" in load.pictures)  # noqa: B023 (awaited in its turn)
        assert load.jobs
