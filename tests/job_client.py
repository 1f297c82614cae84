"""The job API as a client uses it, with workflows that take their time or fail."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import FormData, web
from aiohttp.test_utils import TestClient
from PIL import Image

from comfy_proxy.clock import SystemClock
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.jobs.model import JobStatus
from comfy_proxy.jobs.service import JobService
from comfy_proxy.keys import CLUSTER, JOBS

PATIENCE_S = 20.0
"""Before a condition that does not come true fails the test."""
_salts = itertools.count(1)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def noise(width: int = 16, height: int = 12, mode: str = "RGB") -> bytes:
    """A PNG that is not like the one before."""
    size = width * height * len(Image.new(mode, (1, 1)).getbands())
    seed = next(_salts).to_bytes(8, "big")
    pixels = (seed * (size // 8 + 1))[:size]
    return encode(Image.frombytes(mode, (width, height), pixels))


PNG = noise()


def open_picture(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def write_templates(directory: Path) -> Path:
    """``timed`` (``seconds``, ``salt``) and ``failing``: the picture through a test node."""
    for name, node in (("timed", "TimedPass"), ("failing", "FailNode")):
        inputs = {"image": ["1", 0], "salt": 0, "seconds": 0.0}
        bind = {"1.image": "$picture", "2.salt": "$salt", "2.seconds": "$seconds"}
        parameters = {
            "salt": {"type": "integer", "default": 0},
            "seconds": {"type": "number", "default": 0, "minimum": 0},
        }
        if node == "FailNode":
            for document in (inputs, bind, parameters):
                for key in ("seconds", "2.seconds"):
                    document.pop(key, None)
        graph = {
            "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
            "2": {"class_type": node, "inputs": inputs},
        }
        variant = {"name": "only", "graph": graph, "bind": bind, "output": ["2", 0]}
        document = {"parameters": parameters, "scale": 1, "variants": [variant]}
        (directory / f"{name}.json").write_text(json.dumps(document))
    return directory


class JobClient:
    """Submits, asks and deletes; what is not expected fails the test with the answer's body."""

    def __init__(self, http: TestClient[web.Request, web.Application]) -> None:
        self.http = http

    @property
    def service(self) -> JobService:
        return self.http.app[JOBS]

    def instance(self, worker: Any) -> Any:
        """The cluster's view of a worker."""
        return next(i for i in self.http.app[CLUSTER].instances if i.host == worker.host)

    async def submit(self, name: str = "timed", picture: bytes = PNG, **fields: object) -> str:
        """The id of a new asynchronous job."""
        if name in ("timed", "failing"):
            fields.setdefault("salt", next(_salts))
        async with self.http.post(f"/api/workflows/{name}", data=form(picture, **fields)) as answer:
            body = await answer.json()
            assert answer.status == 202, body
            return str(body["job_id"])

    async def status(self, job_id: str, **query: str) -> dict[str, Any]:
        return await self.get(f"/api/jobs/{job_id}/status", **query)

    async def get(self, path: str, *, expect: int = 200, **query: str) -> dict[str, Any]:
        async with self.http.get(path, params=query) as answer:
            body: dict[str, Any] = await answer.json()
            assert answer.status == expect, body
            return body

    async def reaches(self, job_id: str, status: str) -> dict[str, Any]:
        """The status object as soon as the job has that status."""
        job = self.service.manager.get_job(job_id)
        wanted = JobStatus(status)
        await job.wait_until(
            lambda job: job.status is wanted or job.finished, SystemClock(), PATIENCE_S
        )
        assert job.status is wanted, job
        return await self.status(job_id)

    async def ends(self, job_id: str) -> dict[str, Any]:
        """The status object of the finished job."""
        job = self.service.manager.get_job(job_id)
        assert await job.wait_until(lambda job: job.finished, SystemClock(), PATIENCE_S), job
        return await self.status(job_id)

    async def result(self, job_id: str) -> bytes:
        async with self.http.get(f"/api/jobs/{job_id}/result", params={"wait": "20"}) as answer:
            body = await answer.read()
            assert answer.status == 200, body
            return body

    async def delete(self, job_id: str) -> None:
        async with self.http.delete(f"/api/jobs/{job_id}") as answer:
            assert answer.status == 200, await answer.text()


def form(picture: bytes = PNG, **fields: object) -> FormData:
    data = FormData()
    data.add_field("image", io.BytesIO(picture), filename="p.png", content_type="image/png")
    for name, value in fields.items():
        data.add_field(name, str(value))
    return data


async def kill(worker: EmbeddedWorker) -> None:
    """As ``worker.kill()``, without waiting for requests that a fault keeps hanging."""
    killing = asyncio.create_task(worker.kill())
    await until(lambda: not worker.running)
    worker.faults.clear()
    await killing


async def until(condition: Callable[[], object]) -> None:
    """Return as soon as ``condition()`` holds."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if condition():
                return
            await asyncio.sleep(0.002)
