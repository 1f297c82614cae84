"""SIGTERM to a real process: what was accepted comes to its end, and whoever waits for it hears."""

from __future__ import annotations

import asyncio
import json
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from job_client import PNG, form, until, write_templates
from serving import PATIENCE_S, Served, serving

from comfy_proxy.embedded.worker import EmbeddedWorker

pytestmark = pytest.mark.long

Pair = tuple[EmbeddedWorker, EmbeddedWorker]


def graph(seconds: float = 0.0) -> dict[str, Any]:
    """A picture that takes its time; never cached."""
    empty = {"width": 8, "height": 8, "batch_size": 1, "color": uuid.uuid4().int % 1_000_000}
    timed = {"image": ["1", 0], "seconds": seconds, "salt": 0}
    return {
        "1": {"class_type": "EmptyImage", "inputs": empty},
        "2": {"class_type": "TimedPass", "inputs": timed},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }


@asynccontextmanager
async def proxy_of(
    tmp_path: Path, *workers: EmbeddedWorker, grace_ms: int = 30_000
) -> AsyncIterator[Served]:
    """With the templates ``timed`` and ``failing``, and that long a grace period."""
    templates = tmp_path / "templates"
    templates.mkdir()
    environ = {
        "WORKFLOW_DIRECTORY": str(write_templates(templates)),
        "SHUTDOWN_TIMEOUT": str(grace_ms),
    }
    hosts = [worker.host for worker in workers]
    async with serving(*hosts, logs=tmp_path / "logs", **environ) as served:
        yield served


async def submit(served: Served, seconds: float) -> str:
    url = f"{served.url}/api/workflows/timed"
    async with served.http.post(url, data=form(PNG, seconds=seconds)) as answer:
        assert answer.status == 202, await answer.text()
        return str((await answer.json())["job_id"])


async def told_to_end(served: Served) -> None:
    """SIGTERM was sent, and heard: from now on it is not ready."""
    served.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with served.http.get(f"{served.url}/health/ready") as answer:
                if answer.status == 503:
                    assert await answer.json() == {"status": "draining"}
                    return


async def refused(served: Served, path: str, **body: Any) -> None:
    """New work: 503 with ``Retry-After``, and a code that says why."""
    async with served.http.post(served.url + path, **body) as answer:
        assert (answer.status, (await answer.json())["code"]) == (503, "draining")
        assert int(answer.headers["Retry-After"]) > 0


async def next_close(socket: aiohttp.ClientWebSocketResponse) -> int | None:
    async with asyncio.timeout(PATIENCE_S):
        async for _ in socket:
            pass
    return socket.close_code


async def runs(*workers: EmbeddedWorker) -> None:
    """Something runs at one of them."""
    await until(lambda: any(worker.started for worker in workers))


async def test_the_door_stays_open_until_the_last_job_is_done(
    workers: Pair, tmp_path: Path
) -> None:
    """Not ready, no new work, but the job's status and its picture; then 1001 and exit code 0."""
    async with (
        proxy_of(tmp_path, *workers) as served,
        served.http.ws_connect(f"{served.url}/ws?clientId=a") as socket,
    ):
        job_id = await submit(served, 0.5)
        await runs(*workers)
        await told_to_end(served)
        await refused(served, "/api/workflows/timed", data=form(PNG))
        await refused(served, "/prompt", json={"prompt": graph()})
        assert await served.get("/health/live") == {"status": "alive"}
        async with served.http.ws_connect(f"{served.url}/ws?clientId=b") as late:
            assert json.loads(await late.receive_str())["type"] == "status"
        status = await served.get(f"/api/jobs/{job_id}/status?wait=20")
        assert status["status"] == "completed"
        # In a call of its own, as a client does that asks each second.
        async with served.http.get(f"{served.url}/api/jobs/{job_id}/result") as answer:
            assert answer.status == 200
            assert await answer.read()
        assert await next_close(socket) == 1001
        assert await served.process.wait() == 0


async def test_clients_prompts_come_to_their_end_too(workers: Pair, tmp_path: Path) -> None:
    """The one that runs and the one that waits behind it; their client hears of both."""
    async with (
        proxy_of(tmp_path, *workers) as served,
        served.http.ws_connect(f"{served.url}/ws?clientId=a") as socket,
    ):
        ids = []
        for _ in range(3):
            body = {"prompt": graph(0.2), "client_id": "a", "prompt_id": str(uuid.uuid4())}
            async with served.http.post(f"{served.url}/prompt", json=body) as answer:
                ids.append((await answer.json())["prompt_id"])
        await told_to_end(served)
        ended = set()
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                frame = json.loads(message.data)
                if frame["type"] == "execution_success":
                    ended.add(frame["data"]["prompt_id"])
        assert ended == set(ids)
        assert socket.close_code == 1001
        assert await served.process.wait() == 0


async def test_prompts_of_a_single_instance_are_waited_for(workers: Pair, tmp_path: Path) -> None:
    """They pass unread there; the length of its queue tells."""
    worker = workers[0]
    async with (
        proxy_of(tmp_path, worker) as served,
        served.http.ws_connect(f"{served.url}/ws?clientId=a") as socket,
    ):
        body = {"prompt": graph(0.3), "client_id": "a"}
        async with served.http.post(f"{served.url}/prompt", json=body) as answer:
            assert answer.status == 200
        await runs(worker)
        await told_to_end(served)
        await refused(served, "/prompt", json=body)
        heard = [json.loads(m.data)["type"] async for m in socket if isinstance(m.data, str)]
        assert "execution_success" in heard
        assert await served.process.wait() == 0


async def test_the_grace_period_bounds_it(workers: Pair, tmp_path: Path) -> None:
    """What is not done then fails with a reason, is interrupted there, and the exit code is 0."""
    async with proxy_of(tmp_path, *workers, grace_ms=300) as served:
        job_id = await submit(served, 60)
        await runs(*workers)
        waiting = asyncio.create_task(served.get(f"/api/jobs/{job_id}/status?wait=60"))
        await told_to_end(served)
        assert (await waiting)["error"]["code"] == "draining"
        assert await served.process.wait() == 0
        async with asyncio.timeout(PATIENCE_S):
            for worker in workers:
                url = f"{worker.url}/queue"
                while (await (await served.http.get(url)).json())["queue_running"]:
                    pass  # an interrupt takes a moment


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(
    workers: Pair, tmp_path: Path, number: signal.Signals
) -> None:
    """However long the grace period is, and whatever runs: sockets are closed, and it is over."""
    async with (
        proxy_of(tmp_path, *workers, grace_ms=3_600_000) as served,
        served.http.ws_connect(f"{served.url}/ws?clientId=a") as socket,
    ):
        await submit(served, 3600)
        await runs(*workers)
        await told_to_end(served)
        served.process.send_signal(number)
        assert await next_close(socket) == 1001
        assert await asyncio.wait_for(served.process.wait(), PATIENCE_S) == 0
    assert "for a second time" in served.said


async def test_an_idle_proxy_ends_without_waiting(workers: Pair, tmp_path: Path) -> None:
    async with proxy_of(tmp_path, *workers, grace_ms=3_600_000) as served:
        assert await served.end() == 0
    assert "Traceback" not in served.said
