"""Bad input against the whole proxy: a clear refusal, no job, nothing left behind."""

from __future__ import annotations

import asyncio
import base64
import io
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData, web
from job_client import PNG, JobClient, form, until

from comfy_proxy import Settings, setup
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.jobs.model import JobStatus
from comfy_proxy.jobs.service import JobService
from comfy_proxy.keys import JOBS
from comfy_proxy.settings import parse_instance

RAW = {"Content-Type": "image/png"}
LARGE = 3_000_000  # bytes: on disk, and over the limit of aiohttp's own


def named(field: str, content: bytes, filename: str = "p.png") -> FormData:
    data = FormData()
    data.add_field(field, io.BytesIO(content), filename=filename, content_type="image/png")
    return data


@pytest.mark.long
@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ({"data": FormData({"crop": "true"}, default_to_multipart=True)}, 400, "missing_image"),
        ({"data": named("image", b"")}, 400, "empty_image"),
        ({"data": named("picture", PNG)}, 400, "unknown_parameter"),
        ({"data": named("image", b"just text")}, 400, "invalid_image"),
        ({"data": PNG[:40], "headers": RAW}, 400, "invalid_image"),
        ({"data": form(format="TIFF")}, 400, "invalid_parameter"),
        ({"data": form(crop="maybe")}, 400, "invalid_parameter"),
        ({"data": form(colour="red")}, 400, "unknown_parameter"),
        ({"json": {"image": "!!!"}}, 400, "invalid_base64"),
        ({"json": ["image"]}, 400, "invalid_json"),
        ({"data": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "unsupported_media_type"),
        ({}, 400, "missing_image"),
    ],
)
async def test_refused(jobs: JobClient, sent: dict[str, Any], status: int, code: str) -> None:
    """Each is refused with the contract's JSON and makes no job; the next request works."""
    async with jobs.http.post("/api/remove-background", **sent) as answer:
        body = await answer.json()
    assert (answer.status, body["code"]) == (status, code)
    assert body["request_id"] == answer.headers["X-Request-ID"]
    assert list(jobs.service.manager) == []
    assert (await jobs.ends(await jobs.submit()))["status"] == "completed"


async def test_too_large(start_jobs: Any, workers: Any) -> None:
    """Over MAX_UPLOAD_SIZE is 413, declared or not."""
    jobs = await start_jobs(*workers, max_upload_size=100_000)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(10_000)

    for data in (io.BytesIO(bytes(200_000)), chunks()):
        async with jobs.http.post(
            "/api/upscale-image", data=data, headers=RAW, expect100=True
        ) as answer:
            body = await answer.json()
        assert (answer.status, body["code"]) == (413, "payload_too_large")
        assert body["details"]["max_upload_size"] == 100_000


# --- clients that leave, with and without handler_cancellation -----------------------------------


class Bare:
    """The proxy on a port, spoken to by raw bytes."""

    def __init__(self, service: JobService, port: int, spools: Path) -> None:
        self.service = service
        self.port = port
        self.spools = spools

    async def send(self, head: str, body: bytes = b"") -> asyncio.StreamWriter:
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        await writer.drain()
        return writer


@pytest.fixture(params=[True, False], ids=["cancelling", "not cancelling"])
async def bare(
    request: pytest.FixtureRequest,
    workers: tuple[EmbeddedWorker, EmbeddedWorker],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Bare]:
    """Whatever the host application has set ``handler_cancellation`` to."""
    spools = tmp_path / "spools"
    spools.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spools))
    app = web.Application()
    urls = tuple(parse_instance(worker.url) for worker in workers)
    setup(app, Settings(instances=urls, shutdown_timeout_s=0.0, log_directory=None))
    async with AsyncExitStack() as stack:
        runner = web.AppRunner(app, handler_cancellation=request.param, shutdown_timeout=1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield Bare(app[JOBS], runner.addresses[0][1], spools)
    assert list(spools.iterdir()) == []


def head(path: str, length: int, kind: str = "image/png", **more: str) -> str:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {kind}"]
    lines += [f"Content-Length: {length}", *(f"{name}: {value}" for name, value in more.items())]
    return "\n".join(lines)


def _raw(content: bytes) -> tuple[str, bytes]:
    return "image/png", content


def _multipart(content: bytes) -> tuple[str, bytes]:
    part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="p"\r\n\r\n'
    return "multipart/form-data; boundary=b", part + content


def _json(content: bytes) -> tuple[str, bytes]:
    return "application/json", b'{"image":"' + base64.b64encode(content)


@pytest.mark.long
@pytest.mark.parametrize("wrap", [_raw, _multipart, _json], ids=["raw", "form", "json"])
async def test_a_client_that_leaves_during_the_upload(
    bare: Bare, wrap: Callable[[bytes], tuple[str, bytes]]
) -> None:
    """A large upload that breaks off leaves no job and no file."""
    kind, body = wrap(bytes(LARGE))
    writer = await bare.send(head("/api/upscale-image", 10 * LARGE, kind), body)
    await until(lambda: list(bare.spools.iterdir()))
    writer.close()
    await until(lambda: not list(bare.spools.iterdir()))
    assert list(bare.service.manager) == []


async def test_a_client_that_leaves_during_a_synchronous_wait(
    bare: Bare, workers: tuple[EmbeddedWorker, EmbeddedWorker]
) -> None:
    """Its job goes on and ends; the next client is served."""
    for worker in workers:
        worker.faults.slow_node_s = 60
    request = head("/api/upscale-image?mode=sync", len(PNG), **{"Idempotency-Key": "k"})
    writer = await bare.send(request, PNG)
    await until(lambda: any(worker.started for worker in workers))
    writer.close()
    await writer.wait_closed()
    (job,) = bare.service.manager
    assert job.status is JobStatus.PROCESSING
    for worker in workers:
        worker.faults.slow_node_s = 0
        assert worker._life is not None
    await bare.service.processor.cancel(job)
    again = await bare.send(request.replace(": k", ": other"), PNG)
    await until(lambda: len(list(bare.service.manager)) == 2)
    job = list(bare.service.manager)[-1]
    again.close()
    await until(lambda: job.finished)
    assert job.status is JobStatus.COMPLETED
    assert job.request.files["image"].closed
    assert bare.service.processor.running == bare.service.processor.waiting == []
