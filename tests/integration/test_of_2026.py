"""Two workers of 2026: what the panels of its frontend ask for, and our own jobs."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData, web
from aiohttp.test_utils import TestClient
from job_client import JobClient, noise, open_picture, until

from comfy_proxy.embedded.worker import EmbeddedWorker

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
Http = TestClient[web.Request, web.Application]
ENDED = "/api/jobs?status=completed,failed,cancelled&limit=200&offset=0"
ACTIVE = "/api/jobs?status=in_progress,pending&limit=200&offset=0"


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(
                EmbeddedWorker(
                    base_directory=tmp_path / name, name=name, test_nodes=True, of_2026=True
                )
            )
            for name in ("one", "two")
        ]
        yield one, two


def graph(colour: int, seconds: float = 0.0) -> dict[str, Any]:
    """A picture of one colour, saved under a name that it has at both instances."""
    size = {"width": 16, "height": 8, "batch_size": 1}
    timed = {"image": ["1", 0], "seconds": seconds, "salt": colour}
    return {
        "1": {"class_type": "EmptyImage", "inputs": {**size, "color": colour}},
        "2": {"class_type": "TimedPass", "inputs": timed},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "same"}},
    }


async def submit(page: Http, colour: int, seconds: float = 0.0) -> str:
    body = {"prompt": graph(colour, seconds), "prompt_id": str(uuid.uuid4())}
    async with page.post("/api/prompt", json=body) as answer:
        assert answer.status == 200
    return body["prompt_id"]


async def get(page: Http, path: str) -> Any:
    async with page.get(path) as answer:
        assert answer.status == 200, path
        return await answer.json()


async def colour_at(page: Http, path: str, **query: str) -> int:
    """The colour of the picture there."""
    async with page.get(path, params=query or None) as answer:
        assert answer.status == 200, path
        red, green, blue = open_picture(await answer.read()).getpixel((0, 0))
    return red << 16 | green << 8 | blue


async def run_at_both(page: Http, workers: Pair) -> dict[str, int]:
    """Run a prompt at each instance; the colours by prompt id."""
    colours = {await submit(page, colour, 0.2): colour for colour in (0x102030, 0x405060)}
    await until(lambda: sum(len(worker.executed) for worker in workers) == len(colours))
    assert [len(worker.executed) for worker in workers] == [1, 1]
    return colours


async def test_generated_shows_the_results_of_both(proxy: Http, workers: Pair) -> None:
    """Each job with its own picture, whatever its file is called; a deleted one is gone."""
    colours = await run_at_both(proxy, workers)
    jobs = (await get(proxy, ENDED))["jobs"]
    assert {job["id"] for job in jobs} == set(colours)
    for job in jobs:
        shown = {key: job["preview_output"][key] for key in ("filename", "subfolder", "type")}
        assert await colour_at(proxy, "/api/view", **shown) == colours[job["id"]]
        whole = await get(proxy, f"/api/jobs/{job['id']}")
        assert whole["workflow"]["prompt"] == graph(colours[job["id"]], seconds=0.2)
    gone, stays = colours
    async with proxy.post("/api/history", json={"delete": [gone]}) as answer:
        assert answer.status == 200
    assert [job["id"] for job in (await get(proxy, ENDED))["jobs"]] == [stays]


async def test_assets_are_those_of_both(proxy: Http, workers: Pair) -> None:
    """Each result under the id that its job tells, by content and by preview; a deleted one is
    gone."""
    colours = await run_at_both(proxy, workers)
    jobs = (await get(proxy, ENDED))["jobs"]
    told = {job["preview_output"]["id"]: colours[job["id"]] for job in jobs}
    found = await get(proxy, "/api/assets?include_tags=output&limit=500")
    assert {asset["id"] for asset in found["assets"]} == set(told)
    assert (found["total"], found["has_more"]) == (2, False)
    for asset in found["assets"]:
        assert await colour_at(proxy, f"/api/assets/{asset['id']}/content") == told[asset["id"]]
        assert await colour_at(proxy, asset["preview_url"]) == told[asset["id"]]
    gone, stays = told
    async with proxy.delete(f"/api/assets/{gone}") as answer:
        assert answer.status == 204
    found = await get(proxy, "/api/assets?include_tags=output&limit=500")
    assert [asset["id"] for asset in found["assets"]] == [stays]


async def test_an_upload_is_one_asset(proxy: Http, workers: Pair) -> None:
    """It is at both instances, is listed once, and is deleted at both."""
    form = FormData()
    form.add_field("image", noise(), filename="up.png")
    async with proxy.post("/api/upload/image", data=form) as answer:
        asset = (await answer.json())["asset"]
    await until(lambda: all(worker.uploads for worker in workers))
    found = await get(proxy, "/api/assets?name_contains=up.png")
    assert (len(found["assets"]), found["total"]) == (1, 1)
    async with proxy.delete(f"/api/assets/{asset['id']}") as answer:
        assert answer.status == 204
    assert (await get(proxy, "/api/assets?name_contains=up.png"))["total"] == 0


async def test_the_queue_panel_counts_and_cancels(proxy: Http, workers: Pair) -> None:
    """Two run and two wait, the earlier one with the lower priority; each is cancelled by its id,
    and those that ran are ``cancelled`` in the list."""
    ids = [await submit(proxy, colour, seconds=60) for colour in range(4)]
    await until(lambda: all(worker.started for worker in workers))
    jobs = (await get(proxy, ACTIVE))["jobs"]
    waiting = [job for job in jobs if job["status"] == "pending"]
    assert [job["status"] for job in jobs if job not in waiting] == ["in_progress"] * 2
    by_priority = sorted(waiting, key=lambda job: job["priority"])
    assert [job["id"] for job in by_priority] == [one for one in ids if one in by_id(waiting)]
    ran = set(ids) - by_id(waiting)
    for prompt_id in [*by_id(waiting), *ran]:
        async with proxy.post(f"/api/jobs/{prompt_id}/cancel") as answer:
            assert await answer.json() == {"cancelled": True}
    async with asyncio.timeout(20):
        while (await get(proxy, ACTIVE))["jobs"]:
            pass
    ended = (await get(proxy, ENDED))["jobs"]
    assert {job["id"]: job["status"] for job in ended} == dict.fromkeys(ran, "cancelled")


def by_id(jobs: list[dict[str, Any]]) -> set[str]:
    return {job["id"] for job in jobs}


async def test_our_jobs_run_there(
    start_jobs: Callable[..., Awaitable[JobClient]], workers: Pair
) -> None:
    """Their prompts have ids that are taken; pictures go in and come out at both instances."""
    jobs = await start_jobs(*workers)
    pictures = [noise() for _ in range(6)]
    ids = [await jobs.submit(picture=picture, seconds=0.05) for picture in pictures]
    for job_id, picture in zip(ids, pictures, strict=True):
        assert (await jobs.ends(job_id))["status"] == "completed"
        result = open_picture(await jobs.result(job_id))
        assert result.tobytes() == open_picture(picture).tobytes()
    assert all(worker.executed for worker in workers)
