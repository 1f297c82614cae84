"""A small ComfyUI of 2026 that shows what it is told to, and the gateway in front of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from ledger_front import accepted, leave
from rooms_harness import Client, answering, gateway_over

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.gateway import policies
from comfy_proxy.gateway.gateway import Gateway

Json = dict[str, Any]
Hook = Callable[[], Awaitable[None]]
Workers = tuple[EmbeddedWorker, EmbeddedWorker]
BLUE = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 255},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "blue"}},
}


class Answers:
    """A small server that answers each path of `json` with that JSON, all others with 404."""

    def __init__(self, **json_by_path: Any) -> None:
        self.json: dict[str, Any] = dict(json_by_path)
        self.asked: list[str] = []
        self.heard = asyncio.Event()
        self.let_go = asyncio.Event()
        self.let_go.set()
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self._server = TestServer(app)

    @property
    def url(self) -> str:
        return str(self._server.make_url("")).rstrip("/")

    async def __aenter__(self) -> Answers:
        await self._server.start_server()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self.let_go.set()
        await self._server.close()

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.raw_path)
        self.heard.set()
        await self.let_go.wait()
        if request.path not in self.json:
            return web.Response(status=404, text=f"none at {self.url}")
        return web.json_response(self.json[request.path])


class FakeInstance:
    """Its queue, history and jobs are attributes; `requests` is what it was asked.

    `before[path]` is awaited before an answer is made, `after[path]` before it is sent: so its
    answer is of a later or an earlier moment than others.
    """

    def __init__(self, *, with_jobs: bool = True) -> None:
        self.running: list[list[Any]] = []
        self.pending: list[list[Any]] = []
        self.history: Json = {}
        self.cancelled: list[str] = []
        self.requests: list[tuple[str, str, Any]] = []
        self.before: dict[str, Hook] = {}
        self.after: dict[str, Hook] = {}
        self.status = 200
        app = web.Application(client_max_size=0)
        app.add_routes(
            [
                web.get("/queue", self._queue),
                web.get("/prompt", self._length),
                web.get("/history", self._history),
                web.get("/history/{id}", self._history_of),
                web.post("/queue", self._post_queue),
                web.post("/{path:history|interrupt|free}", self._heard),
            ]
        )
        if with_jobs:
            app.add_routes(
                [
                    web.get("/api/jobs", self._jobs),
                    web.get("/api/jobs/{id}", self._job),
                    web.post("/api/jobs/cancel", self._cancel_many),
                    web.post("/api/jobs/{id}/cancel", self._cancel),
                ]
            )
        app.middlewares.append(self._noted)
        self._server = TestServer(app)

    @property
    def url(self) -> str:
        return str(self._server.make_url("")).rstrip("/")

    @property
    def told(self) -> list[tuple[str, Any]]:
        """Path and body of every POST."""
        return [(path, body) for method, path, body in self.requests if method == "POST"]

    async def __aenter__(self) -> FakeInstance:
        await self._server.start_server()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self._server.close()

    async def stop(self) -> None:
        """Its process ends: nobody listens at its address any more."""
        await self._server.close()

    @web.middleware
    async def _noted(self, request: web.Request, handler: Any) -> web.StreamResponse:
        text = await request.text()
        try:
            body = json.loads(text)
        except ValueError:
            body = text
        self.requests.append((request.method, request.raw_path, body))
        if hook := self.before.get(request.path):
            await hook()
        if self.status != 200:
            return web.Response(status=self.status, text="broken")
        answer = await handler(request)
        if hook := self.after.get(request.path):
            await hook()
        return answer

    async def _queue(self, _request: web.Request) -> web.Response:
        return web.json_response({"queue_running": self.running, "queue_pending": self.pending})

    async def _length(self, _request: web.Request) -> web.Response:
        remaining = len(self.running) + len(self.pending)
        return web.json_response({"exec_info": {"queue_remaining": remaining}})

    async def _history(self, _request: web.Request) -> web.Response:
        return web.json_response(self.history)

    async def _history_of(self, request: web.Request) -> web.Response:
        wanted = request.match_info["id"]
        return web.json_response({key: self.history[key] for key in self.history if key == wanted})

    async def _post_queue(self, request: web.Request) -> web.Response:
        body = await request.json()
        gone = body.get("delete", [])
        self.pending = [
            entry for entry in self.pending if entry[1] not in gone and not body.get("clear")
        ]
        return web.Response()

    async def _heard(self, _request: web.Request) -> web.Response:
        return web.Response()

    def _all_jobs(self) -> list[Json]:
        jobs = [job(entry, "in_progress") for entry in self.running]
        jobs += [job(entry, "pending") for entry in self.pending]
        for entry in self.history.values():
            done = job(entry["prompt"], "completed")
            times = entry["status"]["messages"]
            done["execution_start_time"] = times[0][1]["timestamp"]
            done["execution_end_time"] = times[-1][1]["timestamp"]
            done["preview_output"] = {"filename": "a.png", "subfolder": "", "type": "output"}
            jobs.append(done)
        return jobs

    async def _jobs(self, request: web.Request) -> web.Response:
        query = request.query
        if query.get("sort_by", "created_at") not in ("created_at", "execution_duration"):
            return web.json_response({"error": "sort_by"}, status=400)
        if not query.get("limit", "1").isdigit() or query.get("limit") == "0":
            return web.json_response({"error": "limit"}, status=400)
        jobs = self._all_jobs()
        if statuses := [name for name in query.get("status", "").split(",") if name]:
            jobs = [one for one in jobs if one["status"] in statuses]
        jobs.sort(
            key=lambda one: (
                one["create_time"]
                if query.get("sort_by") != "execution_duration"
                else one.get("execution_end_time", 0) - one.get("execution_start_time", 0)
            ),
            reverse=query.get("sort_order", "desc") == "desc",
        )
        total, offset = len(jobs), max(0, int(query.get("offset", 0)))
        limit = int(query["limit"]) if "limit" in query else None
        jobs = jobs[offset : None if limit is None else offset + limit]
        pagination = {"offset": offset, "limit": limit, "total": total}
        pagination["has_more"] = offset + len(jobs) < total
        return web.json_response({"jobs": jobs, "pagination": pagination})

    async def _job(self, request: web.Request) -> web.Response:
        for one in self._all_jobs():
            if one["id"] == request.match_info["id"]:
                return web.json_response(one)
        return web.json_response({"error": "Job not found"}, status=404)

    def _stop(self, prompt_id: str) -> bool:
        if prompt_id not in {entry[1] for entry in (*self.running, *self.pending)}:
            return False
        self.running = [entry for entry in self.running if entry[1] != prompt_id]
        self.pending = [entry for entry in self.pending if entry[1] != prompt_id]
        self.cancelled.append(prompt_id)
        return True

    async def _cancel(self, request: web.Request) -> web.Response:
        return web.json_response({"cancelled": self._stop(request.match_info["id"])})

    async def _cancel_many(self, request: web.Request) -> web.Response:
        ids = (await request.json())["job_ids"]
        if any(len(one) > 9 for one in ids):
            refusal = {"error": "job_ids contains invalid id(s)", "invalid_ids": ids}
            return web.json_response(refusal, status=400)
        return web.json_response({"cancelled": any([self._stop(one) for one in ids])})


def entry(prompt_id: str, number: float = 0, created: int = 0) -> list[Any]:
    """An entry of /queue."""
    return [number, prompt_id, {"1": {"inputs": {}}}, {"create_time": created}, ["1"]]


def finished(prompt_id: str, start: int, end: int) -> Json:
    """An entry of the history, with one picture."""
    picture = {"filename": "a.png", "subfolder": "", "type": "output"}
    messages = [
        ["execution_start", {"prompt_id": prompt_id, "timestamp": start}],
        ["execution_success", {"prompt_id": prompt_id, "timestamp": end}],
    ]
    return {
        "prompt": entry(prompt_id, created=start),
        "outputs": {"9": {"images": [picture]}},
        "status": {"status_str": "success", "completed": True, "messages": messages},
    }


def job(row: Sequence[Any], status: str) -> Json:
    """An item of /api/jobs."""
    return {"id": row[1], "status": status, "priority": row[0], **row[3], "outputs_count": 0}


def moving(gateway: Gateway, prompt_id: str, number: float = 0, created: int = 0) -> None:
    """That prompt has left the first instance, and is in transit."""
    prompt = accepted(gateway.ledger, prompt_id, gateway.cluster.instances[0])
    leave(gateway.ledger, prompt, entry(prompt_id, number, created))


async def respond(request: web.Request, match: Any, gateway: Gateway) -> web.StreamResponse:
    """As the wired gateway does."""
    return await policies.answer(request, match, gateway)


@asynccontextmanager
async def front(
    *instances: FakeInstance | EmbeddedWorker | str, **settings: Any
) -> AsyncIterator[tuple[Client, Gateway]]:
    """A client of the policies over these instances, and the gateway behind it."""
    urls = [one if isinstance(one, str) else one.url for one in instances]
    async with (
        gateway_over(*urls, **settings) as gateway,
        answering(respond, gateway) as client,
    ):
        yield client, gateway


async def get(client: Client, path: str) -> Any:
    """The JSON at a path; the status must be 200."""
    async with client.get(path) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def post(client: Client, path: str, body: Any) -> bytes:
    """The body of the answer; the status must be 200."""
    async with client.post(path, json=body) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.read()


async def run(worker: EmbeddedWorker, prompt_id: str, graph: dict[str, Any] = BLUE) -> None:
    """Run a graph at one worker to its end."""
    async with (
        aiohttp.ClientSession(worker.url) as session,
        session.ws_connect("/ws?clientId=test") as socket,
    ):
        body = {"prompt": graph, "prompt_id": prompt_id, "client_id": "test"}
        async with session.post("/prompt", json=body) as answer:
            assert answer.status == 200
        while (await socket.receive_json()) != {
            "type": "executing",
            "data": {"node": None, "prompt_id": prompt_id},
        }:
            pass


@asynccontextmanager
async def two_fakes(**options: Any) -> AsyncIterator[tuple[FakeInstance, FakeInstance]]:
    async with FakeInstance(**options) as one, FakeInstance(**options) as two:
        yield one, two
