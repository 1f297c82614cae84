"""One id is followed from the client's request through the job to the instance and the logs."""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from job_client import JobClient, form, kill, until

from comfy_proxy.embedded import life
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import METRICS

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Awaitable[JobClient]]
Seen = list[tuple[str, Mapping[str, str]]]
Line = dict[str, Any]
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
IDS = {"X-Request-ID": "mine-1", "traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What the workers are asked, with headers; to be named before ``workers``."""
    requests: Seen = []
    create_app = life.create_app

    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        requests.append((f"{request.method} {request.path}", request.headers))
        return await handler(request)

    def noting(*arguments: Any, **options: Any) -> web.Application:
        app = create_app(*arguments, **options)
        app.middlewares.insert(0, note)
        return app

    monkeypatch.setattr(life, "create_app", noting)
    return requests


def lines(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


async def test_a_failed_job_is_followed_by_its_id(
    seen: Seen, workers: Pair, start_jobs: Start, tmp_path: Path
) -> None:
    """Access line, job, both log files, and what the instance was asked: one id, one trace."""
    jobs = await start_jobs(*workers, log_directory=tmp_path / "logs")
    async with jobs.http.post(
        "/api/workflows/failing", data=form(), headers={**IDS, "User-Agent": "test/1"}
    ) as answer:
        assert answer.headers["X-Request-ID"] == "mine-1"
        job_id = (await answer.json())["job_id"]
    await jobs.ends(await jobs.submit())  # something else in between
    end = await jobs.ends(job_id)
    async with jobs.http.delete("/nothing-of-it", headers={"X-Request-ID": "other"}):
        pass
    await jobs.http.close()

    combined = lines(tmp_path / "logs" / "combined.log")
    found = [line for line in combined if line.get("request_id") == "mine-1"]
    assert [line for line in combined if line.get("job_id") == job_id] == [
        line for line in found if "job_id" in line
    ]
    access = next(line for line in found if line["logger"] == "comfy_proxy.access")
    told = {key: access[key] for key in ("method", "path", "status", "user_agent", "client")}
    assert told == {
        "method": "POST", "path": "/api/workflows/failing", "status": 202,
        "user_agent": "test/1", "client": "127.0.0.1",
    }  # fmt: skip
    (failure,) = [line for line in found if line["level"] == "error"]
    assert "CUDA out of memory (simulated)" in failure["message"]
    assert failure["job_id"] == job_id
    assert (failure["instance"], failure["prompt_id"]) == (
        end["comfyui_instance"],
        end["prompt_id"],
    )
    assert {line["trace_id"] for line in found} == {TRACE_ID}
    assert lines(tmp_path / "logs" / "error.log") == [failure]

    at_instance = [path for path, headers in seen if headers.get("X-Request-ID") == "mine-1"]
    assert {"POST /upload/image", "POST /prompt"} <= set(at_instance)
    assert at_instance == [
        path for path, headers in seen if headers.get("traceparent") == IDS["traceparent"]
    ]


async def test_a_client_s_prompt_is_followed_by_its_id(
    workers: Pair, start_jobs: Start, tmp_path: Path
) -> None:
    """Where it went and what it cost is told beside the id of the request that brought it."""
    jobs = await start_jobs(*workers, log_directory=tmp_path / "logs")
    prompt_id = str(uuid.uuid4())
    body = {"prompt": graph(), "prompt_id": prompt_id}
    async with jobs.http.post("/prompt", json=body, headers=IDS) as answer:
        assert answer.status == 200
    await until(lambda: jobs.http.app[METRICS].prompts.in_all()["completed"])
    await jobs.http.close()
    combined = lines(tmp_path / "logs" / "combined.log")
    told = [line for line in combined if line.get("prompt_id") == prompt_id]
    assert {(line["request_id"], line["trace_id"]) for line in told} == {("mine-1", TRACE_ID)}
    (ran,) = [worker.host for worker in workers if prompt_id in worker.submitted]
    assert {line["instance"] for line in told} == {ran}
    assert [line["message"] for line in told] == [
        f"prompt {prompt_id} forwarded to {ran}",
        f"prompt {prompt_id} completed",
    ]
    assert told[1]["processing_seconds"] >= 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/system_stats"),  # one instance, bytes as they come
        ("GET", "/queue"),  # all, put together
        ("GET", "/history"),
        ("GET", "/view?filename=none.png"),
        ("POST", "/interrupt"),
        ("POST", "/prompt"),
    ],
)
async def test_what_is_asked_for_a_client_carries_its_id(
    seen: Seen, workers: Pair, start_jobs: Start, method: str, path: str
) -> None:
    """Forwarded, merged or looked up: id and traceparent arrive at each instance that is asked."""
    jobs = await start_jobs(*workers)
    await until(lambda: all(jobs.instance(worker).check_ok for worker in workers))
    body = {"prompt": graph(), "prompt_id": str(uuid.uuid4())} if path == "/prompt" else {}
    async with jobs.http.request(
        method, path, headers=IDS, json=body if method == "POST" else None
    ) as answer:
        await answer.read()
    asked = [
        (one, headers.get("traceparent"))
        for one, headers in seen
        if headers.get("X-Request-ID") == "mine-1"
    ]
    assert (f"{method} {path.partition('?')[0]}", IDS["traceparent"]) in asked


async def test_an_id_of_nonsense_is_replaced_on_the_way(
    seen: Seen, workers: Pair, start_jobs: Start
) -> None:
    """The instance gets the id that the client is told."""
    jobs = await start_jobs(*workers)
    for given in ({}, {"X-Request-ID": "no blanks"}, {"X-Request-ID": "x" * 129}):
        async with jobs.http.get("/system_stats", headers=given) as answer:
            told = answer.headers["X-Request-ID"]
        assert given.get("X-Request-ID") != told
        assert ("GET /system_stats", told) in [
            (path, headers.get("X-Request-ID")) for path, headers in seen
        ]


async def test_what_outlives_a_request_does_not_carry_its_id(
    seen: Seen, workers: Pair, start_jobs: Start, tmp_path: Path
) -> None:
    """Sockets, checks and knowledge that serve everybody belong to nobody's request or job."""
    jobs = await start_jobs(
        *workers, health_check_interval_s=0.2, log_level="debug", log_directory=tmp_path / "logs"
    )
    ids = []
    for number in range(4):  # sockets of jobs, at both
        async with jobs.http.post(
            "/api/workflows/timed",
            data=form(seconds=0.1, salt=number),
            headers={"X-Request-ID": f"job-{number}"},
        ) as answer:
            ids.append((await answer.json())["job_id"])
    ends = [await jobs.ends(job_id) for job_id in ids]
    assert {end["comfyui_instance"] for end in ends} == {worker.host for worker in workers}
    for path in ("/object_info", "/users", "/userdata?dir=workflows"):  # what is shared
        async with jobs.http.get(path, headers={"X-Request-ID": "reader"}) as answer:
            await answer.read()
    seen.clear()
    await kill(workers[0])
    await until(lambda: not jobs.instance(workers[0]).healthy)
    await workers[0].restart()
    await until(lambda: jobs.instance(workers[0]).healthy)
    pool = jobs.service.cluster.connections.pool(jobs.instance(workers[0]))
    await until(lambda: pool.state.open)
    await until(lambda: any(path == "GET /object_info" for path, _ in seen))
    assert not any("X-Request-ID" in headers for _, headers in seen)
    await jobs.http.close()

    combined = lines(tmp_path / "logs" / "combined.log")
    for begins in ("a websocket to", "instance 127", "check of"):
        about_all = [line for line in combined if line["message"].startswith(begins)]
        assert about_all
        assert not any("request_id" in line or "job_id" in line for line in about_all)
    for job_id, number in zip(ids, range(4), strict=True):
        mine = [line for line in combined if line.get("job_id") == job_id]
        assert {line["request_id"] for line in mine} == {f"job-{number}"}
        assert mine[-1]["message"] == f"job {job_id} completed"


async def test_two_applications_keep_their_logs_apart(
    workers: Pair, start_jobs: Start, tmp_path: Path
) -> None:
    """Requests, jobs and what happens in the background: each application's in its own files."""
    apart = [
        await start_jobs(worker, log_directory=tmp_path / worker.name, health_check_interval_s=0.2)
        for worker in workers
    ]
    ends = [await jobs.ends(await jobs.submit("failing")) for jobs in apart]
    await kill(workers[1])
    await until(lambda: not apart[1].instance(workers[1]).healthy)
    for jobs in apart:
        await jobs.http.close()
    for end, worker, other in zip(ends, workers, workers[::-1], strict=True):
        combined = lines(tmp_path / worker.name / "combined.log")
        assert {line["job_id"] for line in combined if "job_id" in line} == {end["job_id"]}
        failure, *outage = lines(tmp_path / worker.name / "error.log")
        assert failure["job_id"] == end["job_id"]
        assert bool(outage) == (worker is workers[1])
        access = [line for line in combined if line["logger"] == "comfy_proxy.access"]
        assert len(access) == 2  # the POST and the status
        assert other.host not in json.dumps(combined)
        opened = [line for line in combined if "circuit closed -> open" in line["message"]]
        assert bool(opened) == (worker is workers[1])


def graph() -> dict[str, Any]:
    picture = {"width": 8, "height": 8, "batch_size": 1, "color": 0}
    return {
        "1": {"class_type": "EmptyImage", "inputs": picture},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
