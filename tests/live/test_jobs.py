"""The job API over two real ComfyUI servers (started by scripts/live-comfyui)."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from direct import graph_of, run_direct
from PIL import Image

import comfy_proxy.embedded
from comfy_proxy.jobs.media.pictures import convert_picture

PICTURES = Path(comfy_proxy.embedded.__file__).parent / "pictures"
Client = TestClient[web.Request, web.Application]


@pytest.fixture
async def live_proxy(live_urls: tuple[str, str], start_proxy: Any) -> Client:
    """The proxy in front of both real servers."""
    client: Client = await start_proxy(*live_urls)
    return client


async def run_job(
    client: Client, endpoint: str, data: bytes, **parameters: str
) -> tuple[dict[str, Any], bytes]:
    """POST, wait, fetch: the status at the end and the picture."""
    form = aiohttp.FormData(parameters)
    form.add_field("imageFile", data, filename="picture")
    async with client.post(f"/api/{endpoint}", data=form) as response:
        job = await response.json()
        assert response.status == 202, job
    async with client.get(f"{job['result_url']}?wait=300") as response:
        body = await response.read()
        assert response.status == 200, body
    async with client.get(job["status_url"]) as response:
        return await response.json(), body


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture)


def small(name: str, salt: int) -> bytes:
    """A photograph made small and unlike any other, so that nothing is served from a cache."""
    with Image.open(PICTURES / name) as picture:
        picture = picture.convert("RGB").resize((160, 120))
    picture.putpixel((0, 0), (salt, 0, 0))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


async def test_thirty_jobs_of_both_kinds_are_the_pixels_of_a_direct_run(
    live_proxy: Client, live_urls: tuple[str, str]
) -> None:
    """Thirty jobs at once complete on both servers, each with a direct run's very pixels."""
    jobs = [
        ("remove-background" if number % 2 else "upscale-image", small("chelsea.png", number))
        for number in range(30)
    ]
    done = await asyncio.gather(
        *(run_job(live_proxy, endpoint, data, crop="false") if endpoint == "remove-background"
          else run_job(live_proxy, endpoint, data) for endpoint, data in jobs)
    )  # fmt: skip
    used = Counter(status["comfyui_instance"] for status, _ in done)
    assert len(used) == 2
    assert min(used.values()) >= 10
    for status, body in done:
        assert status["status"] == "completed"
        url = next(url for url in live_urls if status["comfyui_instance"] in url)
        truth = await run_direct(url, await graph_of(url, status["prompt_id"]))
        assert np.array_equal(pixels(body), pixels(truth))


@pytest.mark.parametrize(("encoding", "quality"), [("WEBP", 80), ("JPEG", 70), ("PNG", None)])
@pytest.mark.parametrize("endpoint", ["remove-background", "upscale-image"])
async def test_formats_are_the_direct_result_converted(
    live_proxy: Client,
    live_urls: tuple[str, str],
    endpoint: str,
    encoding: str,
    quality: int | None,
) -> None:
    """A format is ComfyUI's own picture encoded in it, cropped to the subject where asked for."""
    parameters = {"format": encoding} | ({"quality": str(quality)} if quality else {})
    status, body = await run_job(live_proxy, endpoint, small("coffee.png", 99), **parameters)
    url = next(url for url in live_urls if status["comfyui_instance"] in url)
    truth = await run_direct(url, await graph_of(url, status["prompt_id"]))
    expected = convert_picture(
        truth,
        format=encoding,  # type: ignore[arg-type]
        quality=quality,
        crop=endpoint == "remove-background",
    )
    with Image.open(io.BytesIO(body)) as picture:
        assert picture.format == encoding
        assert picture.size == (expected.width, expected.height)
    assert np.array_equal(pixels(body), pixels(expected.data))


async def test_a_large_result_comes_by_file(live_proxy: Client, live_urls: tuple[str, str]) -> None:
    """A result of more than four megapixels is fetched from /view, the same pixels (trap 10)."""
    with Image.open(PICTURES / "chelsea.png") as picture:
        buffer = io.BytesIO()
        picture.convert("RGB").resize((1200, 900)).save(buffer, "PNG")
    status, body = await run_job(live_proxy, "upscale-image", buffer.getvalue(), scale="2")
    url = next(url for url in live_urls if status["comfyui_instance"] in url)
    graph = await graph_of(url, status["prompt_id"])
    assert {node["class_type"] for node in graph.values()} >= {"PreviewImage"}
    assert pixels(body).shape == (1800, 2400, 3)
    assert np.array_equal(pixels(body), pixels(await run_direct(url, graph)))


async def test_alpha_survives_upscaling(live_proxy: Client) -> None:
    """A transparent PNG is enlarged with its alpha channel: corners clear, middle opaque."""
    picture = Image.new("RGBA", (40, 40), (200, 30, 30, 0))
    picture.paste((30, 200, 30, 255), (10, 10, 30, 30))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    _, body = await run_job(live_proxy, "upscale-image", buffer.getvalue(), scale="3")
    result = pixels(body)
    assert result.shape == (120, 120, 4)
    assert result[0, 0, 3] == 0
    assert result[60, 60, 3] == 255


async def test_both_subjects_in_one_job(live_proxy: Client) -> None:
    """``upscale-remove-bg`` enlarges and cuts out in one prompt."""
    status, body = await run_job(
        live_proxy, "upscale-remove-bg", small("coffee.png", 7), crop="false", scale="2"
    )
    assert pixels(body).shape == (240, 320, 4)
    assert status["attempts"] == 1


async def test_a_workflow_error_is_told_in_comfyuis_own_words(
    live_urls: tuple[str, str], start_proxy: Any, tmp_path: Path, live_test_nodes: None
) -> None:
    """A node that raises ends the job as failed with the node's message, after one attempt."""
    (tmp_path / "fail.json").write_text(
        '{"1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},'
        ' "2": {"class_type": "FailNode", "inputs": {"image": ["1", 0], "salt": 1}},'
        ' "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}}'
    )
    client: Client = await start_proxy(*live_urls, workflow_directory=tmp_path)
    form = aiohttp.FormData()
    form.add_field("imageFile", small("coffee.png", 3), filename="p.png")
    async with client.post("/api/workflows/fail?mode=sync", data=form) as response:
        answer = await response.json()
        assert response.status == 502, answer
    assert answer["code"] == "workflow_error"
    assert "CUDA out of memory (simulated)" in answer["error"]
    assert "File" not in answer["error"]
