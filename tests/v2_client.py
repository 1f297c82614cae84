"""The Comfy API as a client uses it, without an SDK: what is told is seen as it is sent."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientResponse, FormData
from job_client import PATIENCE_S
from prompt_client import Http, Json, graph

ENDS = ("succeeded", "canceled", "failed", "expired")


class V2:
    """Submits, asks, listens; what is not expected fails the test with the answer's body."""

    def __init__(self, http: Http, **headers: str) -> None:
        self.http = http
        self.headers = headers

    async def submit(self, workflow: Json | None = None, **fields: Any) -> Json:
        """The new job."""
        return await self.post("jobs", graph() if workflow is None else workflow, **fields)

    async def post(
        self, path: str, workflow: Json, *, key: str | None = None, expect: int = 201, **fields: Any
    ) -> Json:
        headers = self.headers | ({} if key is None else {"Idempotency-Key": key})
        body = io.BytesIO(json.dumps({"workflow": workflow, **fields}).encode())
        headers |= {"Content-Type": "application/json"}
        async with self.http.post(f"/api/v2/{path}", data=body, headers=headers) as answer:
            return await told(answer, expect)

    async def get(self, path: str, expect: int = 200, **query: str) -> Json:
        address = f"/api/v2/{path}"
        async with self.http.get(address, params=query, headers=self.headers) as answer:
            return await told(answer, expect)

    async def cancel(self, job_id: str) -> Json:
        address = f"/api/v2/jobs/{job_id}/cancel"
        async with self.http.post(address, headers=self.headers) as answer:
            return await told(answer, 200)

    async def upload(self, data: bytes, *, expect: int = 201, **fields: str) -> Json:
        """The asset."""
        form = FormData()
        for name, value in ({"file_path": "p.png", "content_type": "image/png"} | fields).items():
            form.add_field(name, value)
        form.add_field("file", data, filename="p.png", content_type="image/png")
        async with self.http.post("/api/v2/assets", data=form, headers=self.headers) as answer:
            return await told(answer, expect)

    async def content(self, asset_id: str, **headers: str) -> tuple[int, bytes]:
        address = f"/api/v2/assets/{asset_id}/content"
        async with self.http.get(address, headers=self.headers | headers) as answer:
            return answer.status, await answer.read()

    async def ends(self, job_id: str) -> Json:
        """The job when it has ended; its events tell when that is."""
        await self.events(job_id)
        return await self.get(f"jobs/{job_id}")

    async def events(self, job_id: str) -> list[tuple[str, Json]]:
        """All that is told of it, to its end."""
        async with asyncio.timeout(PATIENCE_S), self.listening(job_id) as events:
            return [event async for event in events]

    @asynccontextmanager
    async def listening(self, job_id: str) -> AsyncIterator[AsyncIterator[tuple[str, Json]]]:
        address = f"/api/v2/jobs/{job_id}/events"
        async with self.http.get(address, headers=self.headers) as answer:
            assert answer.status == 200, await answer.text()
            assert answer.content_type == "text/event-stream"
            yield _events(answer)


async def _events(answer: ClientResponse) -> AsyncIterator[tuple[str, Json]]:
    name = ""
    async for raw in answer.content:
        field, _, value = raw.decode().rstrip("\n").partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


async def told(answer: ClientResponse, expect: int) -> Json:
    body: Json = await answer.json() if answer.content_length != 0 else {}
    assert answer.status == expect, (answer.status, body)
    return body


def statuses(events: Iterable[tuple[str, Json]]) -> list[str]:
    """Those that were told, in order, each once."""
    named = [data["status"] for name, data in events if name == "status"]
    return list(dict.fromkeys(named))


def code(answer: Json) -> str:
    """Of an error; that it has the contract's form is looked at too."""
    assert answer.keys() == {"error"}
    assert answer["error"].keys() == {"code", "message", "details"}
    return str(answer["error"]["code"])
