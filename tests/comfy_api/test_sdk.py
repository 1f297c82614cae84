"""Comfy's own Python SDK (comfy-sdk 0.5.0) against the proxy, without comfy-api-proxy."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfy_sdk import AsyncComfy, JobFailed, NotFound, StatusChange, exceptions
from comfy_sdk.events import OutputReady, Progress
from PIL import Image
from prompt_client import Http, graph

from comfy_proxy.embedded.worker import EmbeddedWorker

Workers = tuple[EmbeddedWorker, EmbeddedWorker]


@pytest.fixture
async def comfy(proxy: Http, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncComfy]:
    """The SDK, which knows nothing of us but the address."""
    monkeypatch.setenv("COMFY_BASE_URL", str(proxy.make_url("/")).rstrip("/"))
    monkeypatch.delenv("COMFY_API_KEY", raising=False)
    async with AsyncComfy() as client:
        yield client


def noise(seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)


def png(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pixels_of(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


def slow_copy(seconds: float = 0.15) -> dict[str, Any]:
    """The picture that is loaded, after some time."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": ""}},
        "2": {
            "class_type": "TimedPass",
            "inputs": {"image": ["1", 0], "seconds": seconds, "salt": 0},
        },
        "3": {
            "class_type": "SaveImage",
            "inputs": {"images": ["2", 0], "filename_prefix": "same"},
        },
    }


@pytest.mark.long
async def test_twelve_jobs_use_both_instances_and_each_gets_its_own_picture(
    comfy: AsyncComfy, workers: Workers
) -> None:
    """Uploads, submission, events and download; all pictures have one name and one prefix."""

    async def run(seed: int) -> str:
        workflow = comfy.workflows.from_json(slow_copy())
        asset = comfy.assets.from_bytes(png(noise(seed)), filename="photo.png")
        workflow.set_input("1", "image", asset)
        job = await comfy.submit(workflow)
        told = [event async for event in job.events()]
        await job.result()
        (output,) = job.outputs
        assert np.array_equal(pixels_of(await output.to_bytes()), noise(seed))
        kinds = [type(event) for event in told]
        assert kinds[-1] is StatusChange
        assert OutputReady in kinds
        assert Progress in kinds
        return str(job.id)

    ids = await asyncio.gather(*map(run, range(12)))
    ran = [set(one.executed) & set(ids) for one in workers]
    assert sorted([*ran[0], *ran[1]]) == sorted(ids)
    assert all(ran)


async def test_the_same_bytes_are_uploaded_once(comfy: AsyncComfy) -> None:
    """The second handle finds them by their hash."""
    first, second = (comfy.assets.from_bytes(png(noise(1)), filename="p.png") for _ in range(2))
    assert await first.commit() == await second.commit()
    assert (first.created_new, second.created_new) == (True, False)
    again = await comfy.assets.get(first.id)
    assert again.hash == first.hash
    await again.delete()
    with pytest.raises(NotFound):
        await comfy.assets.get(first.id)


async def test_an_output_is_an_input_of_the_next_job(
    comfy: AsyncComfy, workers: Workers, proxy: Http
) -> None:
    """Wherever that runs: the file is brought there, and is found as a result, not as an input."""
    workflow = comfy.workflows.from_json(slow_copy(0))
    workflow.set_input("1", "image", comfy.assets.from_bytes(png(noise(7)), filename="p.png"))
    first = await comfy.run(workflow)
    (made,) = first.outputs
    maker = next(one for one in workers if first.id in one.executed)
    (url,) = [f"/api/instances/{n}/drain" for n, one in enumerate(workers, 1) if one is maker]
    async with proxy.post(url) as answer:
        assert answer.status == 200
    workflow.json["1"]["inputs"]["image"] = {"__type": "core/ASSET", "info": {"id": made.id}}
    second = await comfy.run(workflow)
    assert second.id not in maker.executed
    assert np.array_equal(pixels_of(await second.outputs[0].to_bytes()), noise(7))
    assert second.outputs[0].id != made.id


async def test_ranges_files_and_download_urls(comfy: AsyncComfy, tmp_path: Path) -> None:
    job = await comfy.run(comfy.workflows.from_json(graph()))
    (output,) = job.get_outputs("3")
    whole = await output.to_bytes()
    assert output.size_bytes == len(whole)
    assert (output.type, output.content_type) == ("image", "image/png")
    assert output.job_id == job.id
    part = await output.to_file(tmp_path / "head", range=(0, 7))
    assert part.read_bytes() == whole[:8]
    assert (await output.get_download_url()).url.endswith(f"/api/v2/assets/{output.id}/content")


async def test_the_workflow_that_ran_is_told(comfy: AsyncComfy) -> None:
    """With names in place of references; also before it has run."""
    workflow = comfy.workflows.from_json(slow_copy(0.3))
    workflow.set_input("1", "image", comfy.assets.from_bytes(png(noise(3)), filename="a b.png"))
    job = await comfy.submit(workflow)
    before = await job.get_workflow()
    await job.result()
    after = await job.get_workflow()
    assert before == after
    assert after.format == "api"
    assert after.graph["2"] == slow_copy(0.3)["2"]
    assert after.graph["1"]["inputs"]["image"].startswith("a b-")


async def test_a_failing_node_is_named(comfy: AsyncComfy) -> None:
    workflow = comfy.workflows.from_json(graph())
    workflow.json["2"] = {"class_type": "FailNode", "inputs": {"image": ["1", 0], "salt": 1}}
    with pytest.raises(JobFailed) as failed:
        await comfy.run(workflow)
    error = failed.value.error
    assert (error.node_id, error.class_type) == ("2", "FailNode")
    assert "out of memory" in error.message
    assert error.traceback is None


async def test_a_job_is_cancelled_wherever_it_is(comfy: AsyncComfy) -> None:
    """Two run, the others wait; none of them is run to its end."""
    jobs = [await comfy.submit(comfy.workflows.from_json(graph(30.0))) for _ in range(4)]
    for job in reversed(jobs):
        await job.cancel()
    for job in jobs:
        await job.wait(timeout=20)
        assert job.status == "canceled"


async def test_lists_are_paged_and_filtered_by_labels(comfy: AsyncComfy) -> None:
    jobs = [
        await comfy.submit(comfy.workflows.from_json(graph()), metadata={"run": str(n % 2)})
        for n in range(5)
    ]
    listed = [one async for one in comfy.list_jobs(limit=2)]
    assert [one.id for one in listed] == [one.id for one in reversed(jobs)]
    assert all(one.create_time and one.update_time for one in listed)
    odd = [one.id async for one in comfy.list_jobs(metadata={"run": "1"}, limit=1)]
    assert odd == [jobs[3].id, jobs[1].id]
    for job in jobs:
        assert (await comfy.jobs.get(job.id)).metadata == job.metadata


async def test_a_key_is_sent_as_the_sdk_sends_it(
    workers: Workers, start_proxy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``Authorization: Bearer``; another one, and none, is refused with the SDK's own error."""
    keys = ("a-key-of-sixteen-characters", "another-key-of-sixteen")
    proxy = await start_proxy(*workers, api_keys=keys)
    monkeypatch.setenv("COMFY_BASE_URL", str(proxy.make_url("/")).rstrip("/"))
    async with AsyncComfy(api_key=keys[0]) as mine, AsyncComfy(api_key=keys[1]) as other:
        asset = mine.assets.from_bytes(png(noise(9)), filename="p.png")
        await asset.commit()
        job = await mine.run(mine.workflows.from_json(graph()))
        assert [one.id async for one in mine.list_jobs()] == [job.id]
        assert [one.id async for one in other.list_jobs()] == []
        with pytest.raises(NotFound):
            await other.jobs.get(job.id)
        with pytest.raises(NotFound):
            await other.assets.get(job.outputs[0].id)
        twin = other.assets.from_bytes(png(noise(9)), filename="p.png")
        await twin.commit()
        assert twin.created_new, "that others have the same bytes is nobody's business"
    async with AsyncComfy(api_key="wrong") as stranger:
        with pytest.raises(exceptions.Unauthorized):
            await stranger.jobs.get(job.id)
