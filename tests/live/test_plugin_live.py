"""A real ComfyUI that has loaded ``config/comfyui-plugin``: its own address serves two servers.

It is a third process, started as ``scripts/live-comfyui`` has started the others; the second of
those is its other instance.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from child_signals import listen_to_all
from client_programs import (
    colour_enlarged,
    decoded,
    environment,
    free_port,
    history,
    one_colour,
    run,
    run_with,
)
from sdk_programs import CLIENTS, run_sdk_jobs

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 180.0
PATIENCE_S = 60.0
PROMPTS = 12


class ComfyUI:
    """The third server. ``log`` is what it has written so far."""

    def __init__(self, process: asyncio.subprocess.Process, directory: Path, port: int) -> None:
        self.process = process
        self.directory = directory
        self.address = f"127.0.0.1:{port}"
        self.url = f"http://{self.address}"

    @property
    def log(self) -> str:
        return (self.directory / "server.log").read_text()

    def proxy_pid(self) -> int:
        """The process id of the proxy that has begun last: the only child."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        (pid,) = [int(word) for word in found.split()]
        return pid

    async def healthy(self, count: int) -> list[str]:
        """The hosts of all instances, as soon as so many of them are healthy."""
        async with asyncio.timeout(START_TIMEOUT_S), aiohttp.ClientSession() as session:
            while True:
                assert self.process.returncode is None, self.log
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    async with session.get(f"{self.url}/health") as answer:
                        if answer.status in (200, 503):
                            found = (await answer.json())["comfyui_instances"]
                            if found["healthy"] == count:
                                return [one["host"] for one in found["instances"]]
                await asyncio.sleep(0.1)


def program(start: Path) -> tuple[str, str]:
    """The Python and the directory of ComfyUI, from the ``start`` command of a server."""
    lines = start.read_text().splitlines()
    folder = next(line for line in lines if line.startswith("cd ")).removeprefix("cd ")
    command = next(line for line in lines if line.startswith("exec ")).split('"')[1]
    return command, folder.strip('"')


@contextlib.asynccontextmanager
async def comfyui(directories: tuple[Path, Path], other: str, base: Path) -> AsyncIterator[ComfyUI]:
    """The third server while the block runs; it is killed at its end if it still runs."""
    python, folder = program(directories[0] / "start")
    nodes = base / "custom_nodes"
    shutil.copytree(directories[0] / "custom_nodes", nodes)
    (nodes / "comfyui-proxy").symlink_to(ROOT / "config" / "comfyui-plugin")
    port = free_port()
    kept = {name: text for name, text in os.environ.items() if not name.startswith("COMFY")}
    with (base / "server.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(python, "main.py", "--cpu", "--port", str(port), "--base-directory", str(base)),
            *("--disable-auto-launch", "--database-url", f"sqlite:///{base}/comfy.db"),
            cwd=folder,
            env=kept
            | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
            | {"COMFYUI_HOST_2": other, "COMFY_PROXY_PYTHON": sys.executable},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=listen_to_all,
        )
    try:
        yield ComfyUI(process, base, port)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
async def inside(
    live_urls: tuple[str, str], live_directories: tuple[Path, Path], tmp_path: Path
) -> AsyncIterator[ComfyUI]:
    """The third server with the proxy at its address, both instances healthy."""
    async with comfyui(live_directories, live_urls[1], tmp_path) as started:
        await started.healthy(2)
        yield started


async def pictures(address: str, count: int) -> list[int]:
    """Post so many prompts at once, hear their ends on one socket, and look at each picture; the
    colours, by which their prompts are known."""
    first = secrets.randbelow(1 << 23)
    wanted = {}
    async with (
        aiohttp.ClientSession(f"http://{address}") as session,
        session.ws_connect("/ws?clientId=plugin", max_msg_size=0) as socket,
    ):

        async def post(colour: int) -> None:
            body = {"prompt": one_colour(colour), "client_id": "plugin"}
            async with session.post("/prompt", json=body) as answer:
                assert answer.status == 200, await answer.text()
                wanted[(await answer.json())["prompt_id"]] = colour

        await asyncio.gather(*map(post, range(first, first + count)))
        left = dict(wanted)
        async with asyncio.timeout(PATIENCE_S):
            while left:
                frame = await socket.receive()
                data: Any = frame.json() if frame.type is aiohttp.WSMsgType.TEXT else {}
                if data.get("type") == "executed" and data["data"]["prompt_id"] in left:
                    colour = left.pop(data["data"]["prompt_id"])
                    (picture,) = data["data"]["output"]["images"]
                    async with session.get("/view", params=picture) as answer:
                        pixels = decoded(await answer.read())
                    assert np.array_equal(pixels, colour_enlarged(colour))
    return list(wanted.values())


async def test_its_own_address_serves_both(
    inside: ComfyUI, live_urls: tuple[str, str], tmp_path: Path
) -> None:
    """The frontend's page, twelve prompts over both GPUs with the right pixels, comfy-cli, and jobs
    of Comfy's Python SDK."""
    hosts = await inside.healthy(2)
    async with aiohttp.ClientSession() as session, session.get(inside.url) as answer:
        assert answer.status == 200
        assert "ComfyUI" in await answer.text()
    colours = await pictures(inside.address, PROMPTS)
    for url in (f"http://{hosts[0]}", live_urls[1]):
        assert any([await run_with(url, colour) for colour in colours]), url
    assert len(await history(inside.url)) >= PROMPTS
    if programs := os.environ.get("COMFY_LIVE_CLIENTS"):
        workflow = tmp_path / "workflow.json"
        colour = secrets.randbelow(1 << 23)
        workflow.write_text(json.dumps(one_colour(colour)))
        host, _, port = inside.address.partition(":")
        comfy = [Path(programs, "comfy"), "--skip-prompt", "run", "--workflow", workflow, "--wait"]
        await run(*comfy, "--host", host, "--port", port, env=environment(tmp_path))
        assert await run_with(inside.url, colour)
        command = [Path(programs, "python"), CLIENTS / "run_sdk.py"]
        await run_sdk_jobs(command, inside.url, (f"http://{hosts[0]}", live_urls[1]), tmp_path)


async def test_what_dies_comes_back_or_ends_too(inside: ComfyUI) -> None:
    """The proxy is killed: it is back, with its prompts. ComfyUI is killed: the proxy ends."""
    colours = await pictures(inside.address, 2)
    first = inside.proxy_pid()
    os.kill(first, signal.SIGKILL)
    await inside.healthy(2)
    second = inside.proxy_pid()
    assert second != first
    assert all([await run_with(inside.url, colour) for colour in colours])
    await pictures(inside.address, 2)
    inside.process.kill()
    await inside.process.wait()
    async with asyncio.timeout(PATIENCE_S):
        await _gone(second)


async def test_the_end_is_a_clean_one(inside: ComfyUI) -> None:
    """^C, with a prompt behind it: no proxy is left, nothing is said of a fault."""
    await pictures(inside.address, 1)
    proxy = inside.proxy_pid()
    inside.process.send_signal(signal.SIGINT)
    async with asyncio.timeout(PATIENCE_S):
        assert await inside.process.wait() == 0
    assert not _is_there(proxy)
    end = inside.log.rpartition("To see the GUI go to: ")[2]
    assert "Stopped server" in end
    assert "Traceback" not in end
    assert "destroyed" not in end


def _is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def _gone(pid: int) -> None:
    while _is_there(pid):  # noqa: ASYNC110 (it is no child of ours: nothing tells us)
        await asyncio.sleep(0.05)


async def test_the_first_goes_on_without_the_second(
    live_directories: tuple[Path, Path], tmp_path: Path
) -> None:
    """The other instance is not there at all: ComfyUI starts, and serves its clients."""
    async with comfyui(live_directories, f"127.0.0.1:{free_port()}", tmp_path) as started:
        await started.healthy(1)
        await pictures(started.address, 2)
