"""Server-Sent Events of a job: order, resumption, heartbeat, previews, clients that leave."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from job_client import until
from made import results
from manual_clock import ManualClock, settle

from comfy_proxy.cluster.comfyui_frames import PictureFrame
from comfy_proxy.event_stream import EventStream
from comfy_proxy.jobs.events import _JobEvents
from comfy_proxy.jobs.model import Job, JobFailure, JobStatus
from comfy_proxy.jobs.service import JobService

MADE = results()


class Reader:
    """One client of an event stream: ``await next()`` → (event, id, data), None at the end."""

    def __init__(self, response: Any) -> None:
        self.response = response

    async def block(self) -> dict[str, str] | None:
        async with asyncio.timeout(5):
            raw = b""
            while not raw.endswith(b"\n\n"):
                line = await self.response.content.readline()
                if not line:
                    assert raw == b""
                    return None
                raw += line
        return dict(line.split(": ", 1) for line in raw.decode().strip().split("\n"))

    async def next(self) -> tuple[str, str | None, Any] | None:
        block = await self.block()
        return block and (block["event"], block.get("id"), json.loads(block["data"]))


async def connect(
    client: TestClient[Any, Any], job: Job, *, last: str | None = None, query: str = ""
) -> Reader:
    headers = {} if last is None else {"Last-Event-ID": last}
    response = await client.get(f"/api/jobs/{job.id}/events{query}", headers=headers)
    assert response.status == 200
    assert response.content_type == "text/event-stream"
    assert response.headers["Cache-Control"] == "no-store"
    return Reader(response)


def begin(service: JobService, job: Job) -> None:
    service.manager.update_job_status(job.id, JobStatus.PROCESSING, instance="a:1")


def progress(service: JobService, job: Job, percentage: float, preview: bytes = b"") -> None:
    service.manager.update_progress(
        job,
        instance="a:1",
        prompt_id="p",
        percentage=percentage,
        current_node="3",
        preview=PictureFrame(media_type="image/jpeg", data=preview) if preview else None,
    )


def complete(service: JobService, job: Job) -> None:
    service.manager.update_job_status(job.id, JobStatus.COMPLETED, results=MADE)


async def test_order(service: JobService, job: Job, api_alone: Any) -> None:
    """status, status, progress, completed, then the end; the data is the status object."""
    reader = await connect(api_alone, job)
    name, _, data = await reader.next()
    assert (name, data["status"], data["job_id"]) == ("status", "pending", job.id)
    begin(service, job)
    name, _, data = await reader.next()
    assert (name, data["status"], data["comfyui_instance"]) == ("status", "processing", "a:1")
    progress(service, job, 25.0)
    name, _, data = await reader.next()
    assert (name, data["progress_percentage"], data["current_node"]) == ("progress", 25.0, "3")
    complete(service, job)
    name, _, data = await reader.next()
    assert (name, data["status"]) == ("completed", "completed")
    assert await reader.next() is None


async def test_a_failed_job(service: JobService, job: Job, api_alone: Any) -> None:
    """The last event of a failed job says why."""
    reader = await connect(api_alone, job)
    await reader.next()
    failure = JobFailure(code="timeout", message="silent", status=504)
    service.manager.update_job_status(job.id, JobStatus.FAILED, error=failure)
    name, _, data = await reader.next()
    assert (name, data["error"]) == ("failed", {"code": "timeout", "message": "silent"})
    assert await reader.next() is None


async def test_what_was_missed_is_one_event(service: JobService, job: Job, api_alone: Any) -> None:
    """Changes that come faster than they are sent are one event with the newest state."""
    reader = await connect(api_alone, job)
    _, first, _ = await reader.next()
    begin(service, job)
    for step in range(1, 100):
        progress(service, job, float(step))
    name, last, data = await reader.next()
    assert (name, data["progress_percentage"]) == ("status", 99.0)
    assert int(last) - int(first) == 100


async def test_a_finished_job_is_told_at_once(
    service: JobService, job: Job, api_alone: Any
) -> None:
    """Who comes after the end gets the end, and the stream is over."""
    begin(service, job)
    complete(service, job)
    reader = await connect(api_alone, job)
    assert (await reader.next())[0] == "completed"
    assert await reader.next() is None


async def test_resumed_with_nothing_new(service: JobService, job: Job, api_alone: Any) -> None:
    """``Last-Event-ID`` of the newest state: nothing is repeated, the next change comes."""
    begin(service, job)
    progress(service, job, 10.0)
    reader = await connect(api_alone, job, last=str(job.version))
    progress(service, job, 20.0)
    name, _, data = await reader.next()
    assert (name, data["progress_percentage"]) == ("progress", 20.0)


@pytest.mark.parametrize("last", ["0", "1", "99", "-1", "x", "1" * 30, "٣"])
async def test_resumed_with_another_id(
    service: JobService, job: Job, api_alone: Any, last: str
) -> None:
    """An older id, one we never gave and nonsense are told the state of now."""
    begin(service, job)
    progress(service, job, 10.0)
    reader = await connect(api_alone, job, last=last.encode().decode("latin-1"))
    assert (await reader.next())[2]["progress_percentage"] == 10.0


async def test_204_after_the_end(service: JobService, job: Job, api_alone: Any) -> None:
    """An EventSource that has seen the end is told to stay away (WHATWG HTML, 9.2)."""
    begin(service, job)
    complete(service, job)
    headers = {"Last-Event-ID": str(job.version)}
    async with api_alone.get(f"/api/jobs/{job.id}/events", headers=headers) as answer:
        assert answer.status == 204


async def test_heartbeat(job: Job, api_alone: Any, clock: ManualClock) -> None:
    """After 15 s without news a comment comes, and again after 15 more."""
    reader = await connect(api_alone, job)
    await reader.next()
    for _ in range(2):
        await until(lambda: clock.waiting)
        await clock.advance(14.8)
        assert not reader.response.content._buffer
        await clock.advance(0.2)
        assert await reader.block() == {"": "heartbeat"}


async def test_previews_are_asked_for(service: JobService, job: Job, api_alone: Any) -> None:
    """Pictures come with ``?previews=true`` alone, each once, before the state they belong to."""
    begin(service, job)
    plain = await connect(api_alone, job)
    seeing = await connect(api_alone, job, query="?previews=true")
    assert [await plain.next(), await seeing.next()]
    progress(service, job, 10.0, preview=b"jpeg")
    name, event_id, data = await seeing.next()
    assert (name, event_id) == ("preview", None)
    assert data == {"mime_type": "image/jpeg", "image_base64": "anBlZw=="}
    assert (await seeing.next())[0] == "progress"
    progress(service, job, 20.0)
    assert (await seeing.next())[0] == "progress"
    assert [(await plain.next())[0], (await plain.next())[0]].count("preview") == 0


async def test_an_unknown_job(api_alone: Any) -> None:
    """There is no stream of a job that does not exist."""
    async with api_alone.get("/api/jobs/nobody/events") as answer:
        assert (answer.status, (await answer.json())["code"]) == (404, "job_not_found")


async def test_a_client_that_leaves_leaves_nothing(
    job: Job, api_alone: Any, clock: ManualClock
) -> None:
    """The stream of a client that went away ends at once, with its timeout."""
    reader = await connect(api_alone, job)
    await reader.next()
    await until(lambda: clock.waiting == 1)
    reader.response.close()
    await until(lambda: clock.waiting == 0)


class SlowResponse:
    """A response whose client takes a write only when the test lets it."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.let = asyncio.Event()

    async def write(self, data: bytes) -> None:
        self.written.append(data)
        await self.let.wait()


async def test_the_end_during_a_write_is_sent(service: JobService, job: Job) -> None:
    """A job that finishes while its progress is being written still sends ``completed``."""
    begin(service, job)
    response = SlowResponse()
    stream = EventStream(response, service.clock)
    events = _JobEvents(stream, job, service, previews=False, seen=-1)
    running = asyncio.create_task(events.send_all())
    await settle()
    complete(service, job)
    response.let.set()
    await running
    assert [data.split(b"\n")[0] for data in response.written] == [
        b"event: status",
        b"event: completed",
    ]


async def test_an_error_with_a_name_that_is_no_utf8(
    service: JobService, job: Job, api_alone: Any
) -> None:
    """ComfyUI's own words reach the client in the stream, in the status and in listings."""
    message = "LoadImage (node 1): caf\udce9.png"
    failure = JobFailure(code="workflow_error", message=message, status=502)
    service.manager.update_job_status(job.id, JobStatus.FAILED, error=failure)
    event = await (await connect(api_alone, job)).next()
    assert event is not None
    assert (event[0], event[2]["error"]["message"]) == ("failed", message)
    for path in (f"/api/jobs/{job.id}/status", f"/api/jobs/{job.id}/result", "/api/jobs/list"):
        async with api_alone.get(path) as answer:
            assert "caf\\udce9.png" in await answer.text()
