"""The recipe in ``config/nginx`` as the real nginx carries it out."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
from crowd_client import png
from gateway_harness import Harness
from job_client import encode, form, write_templates
from nginx_front import nginx
from PIL import Image
from prompt_client import graph
from static_site import SCRIPT, TAKES_GZIP, Site, front

KEY = "k" * 40


async def test_the_frontends_text_comes_from_nginx(harness: Harness, tmp_path: Path) -> None:
    """Packed, over https; a reload costs 304; a second client costs the proxy at most a 304."""
    site = Site()
    proxy = await front(harness, site)
    async with nginx(tmp_path, proxy.address[1]) as client:
        for _ in range(2):
            async with client.get(SCRIPT, headers=TAKES_GZIP) as answer:
                assert gzip.decompress(await answer.read()) == site.file.body
                assert answer.headers["Cache-Control"] == "no-cache"
                tag = answer.headers["ETag"]
        async with client.get(SCRIPT, headers=TAKES_GZIP | {"If-None-Match": tag}) as answer:
            assert (answer.status, await answer.read()) == (304, b"")
        async with client.get(SCRIPT, headers={"Accept-Encoding": "identity"}) as answer:
            assert await answer.read() == site.file.body
    asked = [request.headers.get("If-None-Match") for request in site.asked]
    assert site.answered.count(200) == 2, asked  # packed, and as it is


@pytest.mark.long
async def test_a_new_version_shows_when_a_second_has_passed(
    harness: Harness, tmp_path: Path
) -> None:
    """nginx asks the proxy by the tag that it has, and the proxy the instance."""
    site = Site()
    proxy = await front(harness, site)
    async with nginx(tmp_path, proxy.address[1]) as client:
        seen: list[str] = []
        while "REVALIDATED" not in seen:
            async with client.get(SCRIPT, headers=TAKES_GZIP) as answer:
                seen.append(answer.headers["X-Cache-Status"])
        site.file.body, site.file.etag = site.file.body[::-1], '"new"'
        body = b""
        while body != site.file.body:
            async with client.get(SCRIPT, headers=TAKES_GZIP) as answer:
                body = gzip.decompress(await answer.read())
        assert answer.headers["ETag"] == 'W/"new-gzip"'
    assert 304 in site.answered


async def test_nobody_is_given_what_the_proxy_would_refuse(
    harness: Harness, tmp_path: Path
) -> None:
    """What nginx keeps for one key is not for another one, nor for none."""
    proxy = await front(harness, Site(), api_keys=(KEY,))
    statuses = []
    async with nginx(tmp_path, proxy.address[1]) as client:
        for headers in ({"X-API-Key": KEY}, {}, {"X-API-Key": "other"}, {"Authorization": "no"}):
            async with client.get(SCRIPT, headers=TAKES_GZIP | headers) as answer:
                statuses.append(answer.status)
    assert statuses == [200, 401, 401, 401]


@pytest.mark.long
async def test_uploads_sockets_prompts_and_pictures_pass(
    workers: object, start_proxy: Any, tmp_path: Path
) -> None:
    """A ComfyUI client's whole day: a large upload, its socket, a prompt and its picture."""
    proxy = await start_proxy(*workers)  # type: ignore[misc]
    async with nginx(tmp_path, proxy.server.port) as client:
        pixels = random.Random(1).randbytes(1024 * 1024 * 3)
        picture = encode(Image.frombytes("RGB", (1024, 1024), pixels))
        async with client.post("/upload/image", data=form(picture)) as answer:
            assert answer.status == 200, await answer.text()
        async with client.ws_connect("/ws?clientId=abc") as socket:
            body = {"prompt": graph(color=7), "client_id": "abc"}
            async with client.post("/prompt", json=body) as answer:
                prompt_id = (await answer.json())["prompt_id"]
            name = await _executed(socket, prompt_id)
        async with client.get("/view", params=name) as answer:
            assert answer.status == 200
            assert (await answer.read()).startswith(b"\x89PNG")


async def _executed(socket: Any, prompt_id: str) -> dict[str, str]:
    async with asyncio.timeout(30):
        while True:
            frame = json.loads((await socket.receive()).data)
            if frame["type"] == "executed" and frame["data"]["prompt_id"] == prompt_id:
                found: dict[str, str] = frame["data"]["output"]["images"][0]
                return found


async def test_a_jobs_events_come_as_they_happen(
    workers: object, start_proxy: Any, tmp_path: Path
) -> None:
    """The stream's first event is there before the job has ended; the answer's URLs are https."""
    (tmp_path / "workflows").mkdir()
    templates = write_templates(tmp_path / "workflows")
    proxy = await start_proxy(*workers, workflow_directory=templates)  # type: ignore[misc]
    async with nginx(tmp_path, proxy.server.port) as client:
        async with client.post(
            "/api/workflows/timed", data=form(png((1, 2, 3)), seconds=3600)
        ) as answer:
            job = await answer.json()
        async with client.get(job["events_url"]) as stream:
            assert stream.content_type == "text/event-stream"
            line = await asyncio.wait_for(stream.content.readline(), 30)
            assert line.startswith((b"event: status", b"retry", b"id"))
            async with client.delete(f"/api/jobs/{job['job_id']}") as answer:
                assert answer.status == 200
            rest = await asyncio.wait_for(stream.content.read(), 30)
        assert b"failed" in rest or b"cancelled" in rest
