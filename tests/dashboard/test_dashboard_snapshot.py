"""What the dashboard shows of a proxy at work: the ``state`` and ``preview`` events."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from job_client import PNG, JobClient, kill, open_picture
from viewer import Viewer, looking

from comfy_proxy import __version__
from comfy_proxy.dashboard.feed import Feed
from comfy_proxy.embedded.worker import EmbeddedWorker

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Awaitable[JobClient]]
LONG_S = 60


def at(state: Any, worker: EmbeddedWorker) -> Any:
    """What is shown of one instance."""
    return next(one for one in state["instances"] if one["host"] == worker.host)


def graph(seconds: float, salt: int) -> dict[str, Any]:
    """A prompt of a client of ComfyUI, without any file."""
    size = {"width": 8, "height": 8, "batch_size": 1, "color": 0}
    timed = {"image": ["1", 0], "seconds": seconds, "salt": salt}
    return {
        "1": {"class_type": "EmptyImage", "inputs": size},
        "2": {"class_type": "TimedPass", "inputs": timed},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }


NO_PROMPTS = {"prompts_forwarded": 0, "prompts_completed": 0, "prompts_failed": 0}


async def post_prompt(client: JobClient, prompt: dict[str, Any]) -> str:
    async with client.http.post("/prompt", json={"prompt": prompt, "client_id": "me"}) as answer:
        assert answer.status == 200, await answer.text()
        return str((await answer.json())["prompt_id"])


async def test_the_instances(workers: Pair, start_jobs: Start) -> None:
    """Health, breaker, load and connections of each, as soon as it is known."""
    jobs = await start_jobs(*workers)
    async with looking(jobs.http) as viewer:
        state = await viewer.until(lambda state: state["status"] == "healthy")
    assert state["version"] == __version__
    assert state["uptime_seconds"] >= 0
    assert state["timestamp"].endswith("Z")
    assert [one["host"] for one in state["instances"]] == [worker.host for worker in workers]
    for number, one in enumerate(state["instances"], 1):
        assert one.pop("response_time_ms") > 0
        assert one.pop("last_success").endswith("Z")
        assert one.pop("last_check").endswith("Z")
        assert one == {
            "id": str(number), "host": workers[number - 1].host, "status": "healthy",
            "name": None, "draining": False, "stands_still": False,
            "leaving": False,
            "circuit": "closed", "load": 0, "connections": {"open": 0, "in_use": 0},
            "client_prompts": 0, "jobs": [], "consecutive_failures": 0, "last_error": None,
            "last_error_at": None, "models_loaded": [], "models_more": 0,
            "model_loads": {"paid": 0, "avoided": 0, "seconds": 0.0},
        }  # fmt: skip


@pytest.mark.long
async def test_an_instance_that_is_lost_is_shown_at_once(workers: Pair, start_jobs: Start) -> None:
    """Unhealthy, its circuit, the reason in words; and that it works again."""
    jobs = await start_jobs(*workers, health_check_interval_s=0.05)
    async with looking(jobs.http) as viewer:
        await viewer.until(lambda state: state["status"] == "healthy")
        await kill(workers[1])
        state = await viewer.until(lambda state: at(state, workers[1])["status"] == "unhealthy")
        assert state["status"] == "degraded"
        assert at(state, workers[1])["circuit"] in ("open", "half_open")
        assert at(state, workers[0])["status"] == "healthy"
        (error,) = state["errors"]
        assert (error["code"], error["where"]) == ("circuit_open", workers[1].host)
        assert workers[1].host in error["message"]
        await workers[1].restart()
        state = await viewer.until(lambda state: state["status"] == "healthy")
        assert [one["code"] for one in state["errors"]] == ["circuit_open"]


async def test_jobs_in_the_order_of_interest(workers: Pair, start_jobs: Start) -> None:
    """In work, then waiting in their order, then ended, the last one first; errors in words."""
    jobs = await start_jobs(*workers, max_concurrent_jobs=2)
    completed = await jobs.submit()
    await jobs.ends(completed)
    failed = await jobs.submit("failing")
    await jobs.ends(failed)
    running = [await jobs.submit(seconds=LONG_S) for _ in range(2)]
    pending = [await jobs.submit() for _ in range(2)]
    async with looking(jobs.http) as viewer:
        state = await viewer.until(
            lambda state: (
                sum(job["executing"] for i in state["instances"] for job in i["jobs"]) == 2
            )
        )
    shown = state["jobs"]
    assert [job["job_id"] for job in shown] == [*running, *pending, failed, completed]
    assert [job["status"] for job in shown] == [
        "processing", "processing", "pending", "pending", "failed", "completed",
    ]  # fmt: skip
    assert [job["queue_position"] for job in shown] == [None, None, 1, 2, None, None]
    assert {job["comfyui_instance"] for job in shown[:2]} == {worker.host for worker in workers}
    assert shown[4]["error"]["code"] == "workflow_error"
    assert "CUDA out of memory" in shown[4]["error"]["message"]
    assert shown[5]["result_url"] == f"/api/jobs/{completed}/result"
    assert all(job["waiting_seconds"] >= 0 for job in shown)
    assert [job["execution_seconds"] is None for job in shown] == [False] * 2 + [True] * 2 + [
        False
    ] * 2
    assert state["queue"] == {"pending": 2, "processing": 2, "max_concurrent_jobs": 2}
    assert state["totals"] == {
        "completed": 1,
        "failed": 1,
        "cancelled": 0,
        **NO_PROMPTS,
    }
    (error,) = state["errors"]
    assert (error["code"], error["count"]) == ("workflow_error", 1)
    assert failed in error["message"]
    assert "CUDA out of memory" in error["message"]
    for worker in workers:
        (job,) = at(state, worker)["jobs"]
        assert job["job_id"] in running
        assert 0 <= job["progress_percentage"] < 100
    for job_id in (*pending, *running):
        await jobs.delete(job_id)


@pytest.mark.long
async def test_no_more_jobs_than_a_page_can_show(workers: Pair, start_jobs: Start) -> None:
    """Forty of those in work, and ten that ended, however many there are."""
    jobs = await start_jobs(*workers, max_concurrent_jobs=2)
    ended = [await jobs.submit() for _ in range(12)]
    for job_id in ended:
        await jobs.ends(job_id)
    waiting = [await jobs.submit(seconds=LONG_S) for _ in range(45)]
    async with looking(jobs.http) as viewer:
        state = await viewer.until(lambda state: state["queue"]["processing"] == 2)
    assert [job["job_id"] for job in state["jobs"][:40]] == waiting[:40]
    assert len(state["jobs"]) == 50
    assert {job["job_id"] for job in state["jobs"][40:]} <= set(ended)
    for job_id in reversed(waiting):
        await jobs.delete(job_id)


async def test_the_last_hour(workers: Pair, start_jobs: Start) -> None:
    """Sixty minutes of what was done and how long it took, as it was counted elsewhere."""
    jobs = await start_jobs(*workers)
    ends = [await jobs.ends(await jobs.submit(seconds=0.05)) for _ in range(3)]
    ends.append(await jobs.ends(await jobs.submit("failing")))
    await post_prompt(jobs, graph(0, 1))
    async with looking(jobs.http) as viewer:
        hour = (await viewer.until(lambda s: s["totals"]["prompts_completed"]))["last_hour"]
    assert {len(values) for values in hour.values()} == {60}
    totals = {name: sum(hour[name]) for name in ("completed", "failed", "prompts")}
    assert totals == {"completed": 3, "failed": 1, "prompts": 1}
    longest = max(end["processing_time_seconds"] for end in ends)
    assert 0 < max(filter(None, hour["processing_seconds"])) <= longest
    assert max(filter(None, hour["waiting_seconds"])) > 0
    assert hour["waiting_seconds"][0] is None  # nothing ended: that is no wait of nought
    assert sum(hour["completed"][:58]) == 0


async def load_is(viewer: Viewer, worker: EmbeddedWorker, load: int) -> Any:
    return at(await viewer.until(lambda state: at(state, worker)["load"] == load), worker)


async def test_prompts_of_comfyuis_clients(workers: Pair, start_jobs: Start) -> None:
    """Counted where they are, beside our own jobs and apart from them; gone when they end."""
    jobs = await start_jobs(workers[0])
    async with looking(jobs.http) as viewer:
        await load_is(viewer, workers[0], 0)
        prompt_id = await post_prompt(jobs, graph(LONG_S, 1))
        shown = await load_is(viewer, workers[0], 1)
        assert (shown["client_prompts"], shown["jobs"]) == (1, [])
        job_id = await jobs.submit(seconds=LONG_S)
        shown = await load_is(viewer, workers[0], 2)
        assert shown["client_prompts"] == 1
        assert [(job["job_id"], job["executing"]) for job in shown["jobs"]] == [(job_id, False)]
        await jobs.delete(job_id)
        await load_is(viewer, workers[0], 1)
        async with jobs.http.post("/interrupt", json={"prompt_id": prompt_id}) as answer:
            assert answer.status == 200
        assert (await load_is(viewer, workers[0], 0))["client_prompts"] == 0


async def test_previews_while_a_job_runs(
    workers: Pair, start_proxy: Callable[..., Any], tmp_path: Path
) -> None:
    """What ComfyUI shows of a running job comes as a picture of its own, by job."""
    directory = tmp_path / "workflows"
    directory.mkdir()
    timed = {"image": ["1", 0], "seconds": LONG_S, "salt": 0}
    document = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
        "2": {"class_type": "TimedPass", "inputs": timed},
        "3": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}},
    }
    variant = {"name": "only", "graph": document, "bind": {"1.image": "$picture"}}
    variants = [{**variant, "output": ["2", 0]}]
    (directory / "showing.json").write_text(json.dumps({"scale": 1, "variants": variants}))
    jobs = JobClient(await start_proxy(*workers, workflow_directory=directory))
    async with looking(jobs.http) as viewer:
        job_id = await jobs.submit("showing")
        while (event := await viewer.next()) is not None and event[0] != "preview":
            pass
        assert event is not None
        assert event[1]["job_id"] == job_id
        assert event[1]["mime_type"] == "image/png"
        shown = open_picture(base64.b64decode(event[1]["image_base64"]))
        assert shown.tobytes() == open_picture(PNG).tobytes()
    await jobs.delete(job_id)


async def test_faults_that_clients_of_comfyui_saw(workers: Pair, start_jobs: Start) -> None:
    """Those of one kind are one error with their number; our own answers tell nothing twice."""
    jobs = await start_jobs(*workers)
    async with looking(jobs.http) as viewer:
        await viewer.until(lambda state: state["status"] == "healthy")
        for worker in workers:
            worker.faults.answers = {"/broken": "500"}
        for number in range(3):
            async with jobs.http.get(f"/broken/{number}") as answer:
                assert answer.status == 500
        state = await viewer.until(lambda s: sum(e["count"] for e in s["errors"]) == 3)
    (error,) = state["errors"]
    assert (error["code"], error["where"]) == ("http_500", workers[0].host)
    assert error["message"] == "GET /broken/2 was answered with 500"


async def test_nothing_is_made_while_nobody_looks_at_a_busy_proxy(
    workers: Pair, start_jobs: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many changes, no picture; the first viewer is shown what came of them."""
    made: list[Feed] = []
    make = Feed._moment
    monkeypatch.setattr(Feed, "_moment", lambda feed: made.append(feed) or make(feed))
    jobs = await start_jobs(*workers)
    for _ in range(5):
        await jobs.ends(await jobs.submit(seconds=0.1))
    assert made == []
    async with looking(jobs.http) as viewer:
        assert (await viewer.state())["totals"]["completed"] == 5
    assert len(made) == 1
