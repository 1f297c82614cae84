"""Third-party programs run as their users run them, and the graphs and pictures they are given."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from PIL import Image

TIMEOUT_S = 120
Graph = dict[str, dict[str, Any]]
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def environment(home: Path) -> dict[str, str]:
    """That of a user with an empty home directory who sends no telemetry."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return kept | {"HOME": str(home), "DO_NOT_TRACK": "1", "NO_COLOR": "1"}


async def run(*command: str | Path, env: dict[str, str]) -> str:
    """Run a program to its end and return what it printed; it has to succeed."""
    process = await asyncio.create_subprocess_exec(
        *(str(word) for word in command),
        env=env,
        cwd=env["HOME"],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            printed, errors = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, (command, printed.decode(), errors.decode())
    return printed.decode()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def service(*command: str | Path, url: str, env: dict[str, str]) -> AsyncIterator[None]:
    """Run a server while the block runs; it is up when ``url`` answers."""
    process = await asyncio.create_subprocess_exec(
        *(str(word) for word in command),
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S), aiohttp.ClientSession() as session:
            while True:
                assert process.returncode is None, command
                if await _answers(session, url):
                    break
                await asyncio.sleep(0.1)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


def one_colour(colour: int) -> Graph:
    """EmptyImage → ImageScaleBy → SaveImage, for ComfyUI's examples.

    They set the text of node 6 and the seed of node 3, which are no inputs of the nodes here.
    """
    return {
        "3": {
            "class_type": "ImageScaleBy",
            "inputs": {"image": ["6", 0], "upscale_method": "nearest-exact", "scale_by": 2.0},
        },
        "6": {
            "class_type": "EmptyImage",
            "inputs": {"width": 40, "height": 30, "batch_size": 1, "color": colour},
        },
        "9": {
            "class_type": "SaveImage",
            "inputs": {"images": ["3", 0], "filename_prefix": "example"},
        },
    }


def over_the_socket(colour: int) -> Graph:
    """The same with the output node of the image-frames example."""
    graph = one_colour(colour)
    del graph["9"]
    graph["save_image_websocket_node"] = {
        "class_type": "SaveImageWebsocket",
        "inputs": {"images": ["3", 0]},
    }
    return graph


def colour_enlarged(colour: int) -> Pixels:
    """What :func:`one_colour` makes."""
    rgb = np.array([colour >> 16, colour >> 8 & 255, colour & 255], np.uint8)
    return np.broadcast_to(rgb, (60, 80, 3))


def picture_from(name: str) -> Graph:
    """LoadImage → ImageScaleBy → SaveImage."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {
            "class_type": "ImageScaleBy",
            "inputs": {"image": ["1", 0], "upscale_method": "nearest-exact", "scale_by": 2.0},
        },
        "9": {
            "class_type": "SaveImage",
            "inputs": {"images": ["2", 0], "filename_prefix": "client"},
        },
    }


def noise(seed: int) -> Pixels:
    """A picture like no other; its enlargement takes ComfyUI some hundred milliseconds."""
    return np.random.default_rng(seed).integers(0, 256, (384, 512, 3), np.uint8)


def enlarged(pixels: Pixels) -> Pixels:
    """What :func:`picture_from` makes of it."""
    return pixels.repeat(2, axis=0).repeat(2, axis=1)


def encoded(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def decoded(data: bytes) -> Pixels:
    """The pixels of a picture file's bytes."""
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture)


def downloaded(file: str | Path) -> Pixels:
    """The pixels of a file that a client has left; it is gone afterwards."""
    data = Path(file).read_bytes()
    Path(file).unlink()
    return decoded(data)


async def history(url: str) -> dict[str, Any]:
    """What a server, or the proxy, says it has run."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/history") as response:
        answer: dict[str, Any] = await response.json()
        return answer


async def use_only(url: str, number: int) -> None:
    """Have the proxy at ``url`` give new work to its instance 1 or 2 alone: the other is drained.

    Of runs one after the other the faster server may rightly have them all.
    """
    async with aiohttp.ClientSession(url) as session:
        for command in (f"{number}/resume", f"{3 - number}/drain"):
            async with session.post(f"/api/instances/{command}") as answer:
                assert answer.status == 200, await answer.text()


async def run_with(url: str, value: object) -> list[str]:
    """The prompts in the history at ``url`` in whose graph some input has that value."""
    return [
        prompt_id
        for prompt_id, entry in (await history(url)).items()
        if any(value in node["inputs"].values() for node in entry["prompt"][2].values())
    ]
