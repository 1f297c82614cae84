"""A client of the proxy who counts: what it asked, what it was told, and when."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import aiohttp
from job_client import form, noise
from serving import Served

Json = dict[str, Any]
_salts = itertools.count(1)


@dataclass(kw_only=True)
class Truth:
    """``answers``: method and status of each request that was answered; ``asked_all_at``: when a
    view of all instances came; ``jobs``: the last status of each; ``prompts``: ids accepted."""

    answers: Counter[tuple[str, str]]
    asked_all_at: list[float] = field(default_factory=list)
    jobs: list[Json] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)

    @property
    def retries(self) -> int:
        return sum(job["attempts"] - 1 for job in self.jobs)

    def count(self, *keys: str) -> Counter[tuple[str, ...]]:
        """Jobs by what their status says under ``keys``."""
        return Counter(tuple(str(job[key]) for key in keys) for job in self.jobs)

    def ended_at(self, **wanted: str) -> list[float]:
        """When each job that is like that ended, since the epoch."""
        return [
            datetime.fromisoformat(job["completed_time"]).timestamp()
            for job in self.jobs
            if wanted.items() <= job.items()
        ]


class Client:
    """Asks the proxy, and counts in ``truth``."""

    def __init__(self, served: Served) -> None:
        self._url = served.url
        self._ids: list[str] = []
        self.http = served.http
        self.truth = Truth(answers=served.answers)

    async def submit(self, workflow: str, **fields: object) -> None:
        """A job that must be accepted."""
        url = f"{self._url}/api/workflows/{workflow}"
        async with self.http.post(url, data=form(noise(), **fields)) as answer:
            body = await answer.json()
            assert answer.status == 202, body
            self._ids.append(body["job_id"])

    async def until_completed(self, count: int) -> None:
        """Until so many jobs have completed."""
        completed = 0
        while completed < count:
            await asyncio.sleep(0.05)
            completed = (await self.get("/api/jobs/stats"))["by_status"]["completed"]

    async def all_end(self) -> None:
        """Wait for every job, and learn how it ended."""
        self.truth.jobs = await asyncio.gather(*map(self._end, self._ids))

    async def _end(self, job_id: str) -> Json:
        while True:
            status: Json = await self.get(f"/api/jobs/{job_id}/status?wait=30")
            if status["status"] in ("completed", "failed"):
                return status

    async def prompt(self, client_id: str) -> None:
        """A prompt as ComfyUI's own clients post it."""
        prompt_id = str(uuid.uuid4())
        body = {"prompt": graph(), "prompt_id": prompt_id, "client_id": client_id}
        async with self.http.post(f"{self._url}/prompt", json=body) as answer:
            assert answer.status == 200, await answer.text()
            self.truth.prompts.append(prompt_id)

    async def prompts(self, count: int) -> None:
        """So many prompts of one client with a socket; until all have been run."""
        client_id = uuid.uuid4().hex
        async with self.http.ws_connect(f"{self._url}/ws?clientId={client_id}") as socket:
            await asyncio.gather(*(self.prompt(client_id) for _ in range(count)))
            left = set(self.truth.prompts)
            while left:
                message = await socket.receive()
                if message.type is aiohttp.WSMsgType.TEXT:
                    frame = json.loads(message.data)
                    if frame["type"] == "executing" and frame["data"]["node"] is None:
                        left.discard(frame["data"]["prompt_id"])

    async def get(self, path: str, expect: int = 200) -> Any:
        async with self.http.get(self._url + path) as answer:
            body = await answer.read()
            assert answer.status == expect, body
            return json.loads(body) if expect == 200 else None

    @asynccontextmanager
    async def asking_all(self) -> AsyncIterator[None]:
        """Somebody looks at the queue over and over, some twenty times a second."""

        stop = asyncio.Event()

        async def look() -> None:
            while not stop.is_set():
                await self.get("/queue")
                self.truth.asked_all_at.append(time.time())
                await asyncio.sleep(0.04)

        looking = asyncio.create_task(look())
        try:
            yield
        finally:
            stop.set()
            await looking


def graph() -> Json:
    picture = {"width": 8, "height": 8, "batch_size": 1, "color": next(_salts)}
    timed = {"image": ["1", 0], "seconds": 0.02, "salt": next(_salts)}
    return {
        "1": {"class_type": "EmptyImage", "inputs": picture},
        "2": {"class_type": "TimedPass", "inputs": timed},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }


def per_second(times: Sequence[float], scrapes: Sequence[float]) -> float:
    """How often it happened between the first scrape and the last."""
    first, last = scrapes[0], scrapes[-1]
    return sum(first < time <= last for time in times) / (last - first)
