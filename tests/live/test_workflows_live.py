"""Workflows as ComfyUI's own frontend (1.32.9) exported them, from file to result on both servers.

The files in ``exported`` are dropped into the workflow directory of a proxy that runs.
"""

from __future__ import annotations

import asyncio
import io
import shutil
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from PIL import Image

from comfy_proxy.keys import JOBS

EXPORTED = Path(__file__).parent / "exported"
Client = TestClient[web.Request, web.Application]
SIZE = (96, 64)


@pytest.fixture
async def dropped(live_urls: tuple[str, str], start_proxy: Any, tmp_path: Path) -> Any:
    """``await dropped(name)``: the file is put there, and the endpoint has appeared."""
    client: Client = await start_proxy(*live_urls, workflow_directory=tmp_path)
    changed = asyncio.Event()

    async def drop(name: str) -> Client:
        shutil.copy(EXPORTED / f"{name}.json", tmp_path)
        async with asyncio.timeout(30):
            while (await client.get(f"/api/workflows/{name}")).status == 404:
                await changed.wait()
                changed.clear()
        return client

    client.app[JOBS].workflows.on_changed.append(changed.set)
    return drop


def picture(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", SIZE, colour).save(buffer, "PNG")
    return buffer.getvalue()


async def ends(client: Client, name: str, **fields: Any) -> dict[str, Any]:
    """The status at the end of a job of that workflow."""
    form = aiohttp.FormData({"quality": "90"})
    for key, value in fields.items():
        is_file = isinstance(value, bytes)
        form.add_field(key, value, **({"filename": "a.png"} if is_file else {}))
    async with client.post(f"/api/workflows/{name}", data=form) as answer:
        accepted = await answer.json()
        assert answer.status == 202, accepted
    async with client.get(f"{accepted['status_url']}?wait=120") as answer:
        status: dict[str, Any] = await answer.json()
    assert status["status"] == "completed", status["error"]
    return status


async def fetch(client: Client, url: str, **headers: str) -> bytes:
    async with client.get(url, headers=headers) as answer:
        assert answer.status == 200
        return await answer.read()


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(opened).astype(int)


async def test_two_pictures_are_blended_on_both_servers(dropped: Any) -> None:
    """Both files are named by the titles of their nodes; twelve jobs use both servers."""
    client = await dropped("blend")
    files = {"background": picture((200, 0, 0)), "overlay": picture((0, 100, 0))}
    done = await asyncio.gather(
        *(ends(client, "blend", **files, blend_factor=str(at / 12)) for at in range(12))
    )
    assert len(Counter(one["comfyui_instance"] for one in done)) == 2
    for at, one in enumerate(done):
        made = pixels(await fetch(client, one["results"][0]["url"]))[0, 0, :3]
        wanted = np.array((200 * (1 - at / 12), 100 * at / 12, 0))
        assert np.abs(made - wanted).max() <= 1


async def test_a_mask_is_a_file_of_its_own(dropped: Any) -> None:
    """What is white in the mask is kept, the rest is transparent."""
    client = await dropped("mask")
    mask = Image.new("L", SIZE, 0)
    mask.paste(255, (0, 0, 48, 64))
    buffer = io.BytesIO()
    mask.convert("RGB").save(buffer, "PNG")
    done = await ends(client, "mask", image=picture((9, 8, 7)), mask=buffer.getvalue())
    made = pixels(await fetch(client, done["result_url"]))
    assert (made[0, 0, 3], made[0, 95, 3]) == (255, 0)


async def test_a_batch_of_three_is_three_results(dropped: Any) -> None:
    """As a list with a URL each, and in one ZIP."""
    client = await dropped("batch")
    done = await ends(client, "batch", width="32", height="32")
    assert [one["type"] for one in done["results"]] == ["image"] * 3
    for one in done["results"]:
        assert pixels(await fetch(client, one["url"])).shape == (32, 32, 3)
    packed = await fetch(client, done["result_url"], Accept="application/zip")
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert archive.namelist() == [one["name"] for one in done["results"]]


async def test_an_animation_keeps_its_frames(dropped: Any) -> None:
    """It is what ComfyUI has made, whatever format still pictures are wanted in; of frames that are
    alike the file holds one."""
    client = await dropped("animation")
    done = await ends(client, "animation", format="PNG")
    assert done["results"][0]["type"] == "animation"
    with Image.open(io.BytesIO(await fetch(client, done["result_url"]))) as opened:
        assert (opened.format, opened.n_frames) == ("WEBP", 2)


async def test_a_text_is_a_result(dropped: Any) -> None:
    """What Preview as Text shows."""
    client = await dropped("text")
    done = await ends(client, "text", sentence="Grüße")
    assert (await fetch(client, done["result_url"])).decode() == "Grüße, world"


async def test_a_workflow_without_its_model_says_so(dropped: Any) -> None:
    """The checkpoint of its author is on neither server: told at once, by name."""
    client = await dropped("text_to_image")
    async with client.get("/api/workflows/text_to_image") as answer:
        parameters = (await answer.json())["parameters"]["properties"]
    assert list(parameters)[:2] == ["prompt", "negative_prompt"]
    async with client.post(
        "/api/workflows/text_to_image?mode=sync", data={"checkpoint": "none.safetensors"}
    ) as answer:
        body = await answer.json()
    assert (answer.status, body["code"]) == (503, "workflow_unavailable")
    assert "none.safetensors" in body["error"]
