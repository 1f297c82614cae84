"""``/api/v2/jobs/{id}/events``: what is told, in which order, and to whom."""

from __future__ import annotations

import asyncio
import base64
import io

import pytest
from job_client import PATIENCE_S, until
from PIL import Image
from prompt_client import Http, graph
from v2_client import V2, code, statuses

from comfy_proxy.comfy_api import service
from comfy_proxy.comfy_api.events import PACE_S
from comfy_proxy.gateway.events.frames import Pass
from comfy_proxy.gateway.events.listener import Heard
from comfy_proxy.keys import COMFY_API


async def test_progress_is_the_instances_own(v2: V2) -> None:
    """Steps of the node that runs, and nodes that are done."""
    job = await v2.submit(graph(4 * PACE_S))
    events = await v2.events(job["id"])
    told = [data for name, data in events if name == "progress"]
    values = [one["value"] for one in told]
    assert values == sorted(values)
    assert values[-1] == 1.0
    steps = [one for one in told if one["current_node_class"] == "TimedPass" and one["steps"]]
    assert len({one["step"] for one in steps}) > 1
    for one in steps:
        assert one["value"] == pytest.approx((1 + one["step"] / one["steps"]) / 3, abs=0.02)
        assert one["message"] == f"TimedPass {one['step']}/{one['steps']}"
    asked = (await v2.get(f"jobs/{job['id']}"))["progress"]
    assert (asked["value"], asked["nodes_done"], asked["nodes_total"]) == (1.0, 3, 3)


async def test_a_poller_is_told_the_progress_too(v2: V2, proxy: Http) -> None:
    job = await v2.submit(graph(20.0))
    record = proxy.app[COMFY_API].jobs.find(job["id"])
    await until(lambda: record.progress.snapshot()["value"] > 0.35)
    told = await v2.get(f"jobs/{job['id']}")
    assert (told["status"], told["progress"]["current_node"]) == ("running", "2")
    assert 0.35 < told["progress"]["value"] < 1
    await v2.cancel(job["id"])


async def test_outputs_come_before_the_end(v2: V2) -> None:
    """The SDKs stop to listen when they are told of the end."""
    job = await v2.submit(graph(0.1))
    events = await v2.events(job["id"])
    names = [name for name, _ in events]
    assert names.count("output") == 1
    assert names[-1] == "status"
    assert names.index("output") < len(names) - 1
    output = next(data for name, data in events if name == "output")
    assert [output] == (await v2.get(f"jobs/{job['id']}"))["outputs"]
    assert statuses(events)[-1] == "succeeded"


async def test_who_comes_after_the_end_is_told_all_of_it(v2: V2) -> None:
    job = await v2.ends((await v2.submit())["id"])
    events = await v2.events(job["id"])
    assert [name for name, _ in events] == ["progress", "output", "status"]


async def test_who_comes_again_is_told_how_it_stands(v2: V2, proxy: Http) -> None:
    """Each event tells the whole of its matter, so nothing is to be resumed."""
    job = await v2.submit(graph(1.0))
    async with v2.listening(job["id"]) as events:
        assert (await anext(events))[0] == "status"
    events = await v2.events(job["id"])
    assert statuses(events)[-1] == "succeeded"
    assert [name for name, _ in events].count("output") == 1


async def test_previews_are_told_to_those_who_listen(v2: V2, proxy: Http) -> None:
    """As pictures in base64; they are kept for nobody else."""
    workflow = graph(3.0)
    job = await v2.submit(workflow)
    record = proxy.app[COMFY_API].jobs.find(job["id"])
    api = proxy.app[COMFY_API]
    async with asyncio.timeout(PATIENCE_S), v2.listening(job["id"]) as events:
        async for name, data in events:
            if name == "status" and data["status"] == "running":
                picture = io.BytesIO()
                Image.new("RGB", (4, 4)).save(picture, "JPEG")
                frame = b"\0\0\0\1\0\0\0\1" + picture.getvalue()
                place = api.ledger.find(job["id"]).instance
                api.follower.heard(Heard(Pass(data=frame, droppable=True), place))
            if name == "preview":
                assert data["content_type"] == "image/jpeg"
                assert base64.b64decode(data["data_base64"]) == picture.getvalue()
                break
    await until(lambda: record.preview is None)
    await v2.cancel(job["id"])


async def test_one_job_is_told_nothing_of_another(v2: V2) -> None:
    jobs = [await v2.submit(graph(0.3)) for _ in range(4)]
    for job, events in zip(
        jobs, await asyncio.gather(*(v2.events(one["id"]) for one in jobs)), strict=True
    ):
        outputs = [data for name, data in events if name == "output"]
        assert [one["job_id"] for one in outputs] == [job["id"]]


async def test_a_client_has_so_many_streams_at_once(
    v2: V2, proxy: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more is told to come again; polling goes on."""
    monkeypatch.setattr(service, "MAX_STREAMS", 1)
    job = await v2.submit(graph(20.0))
    async with v2.listening(job["id"]) as events:
        await anext(events)
        path = f"/api/v2/jobs/{job['id']}/events"
        async with proxy.get(path) as answer:
            assert (answer.status, code(await answer.json())) == (429, "too_many_streams")
            assert answer.headers["Retry-After"] == "5"
    await v2.cancel(job["id"])
    assert statuses(await v2.events(job["id"]))[-1] == "canceled"


async def test_streams_end_when_the_proxy_stops(v2: V2, proxy: Http) -> None:
    job = await v2.submit(graph(20.0))
    async with v2.listening(job["id"]) as events:
        assert (await anext(events))[0] == "status"
        proxy.app[COMFY_API].end_streams()
        async with asyncio.timeout(PATIENCE_S):
            assert [name async for name, _ in events if name == "status"] in ([], ["status"])
