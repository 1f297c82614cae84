"""The proxy is killed, and started again with its STATE_FILE: what was accepted ends.

All are real processes: the instances, and the proxy, which gets SIGKILL.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from job_client import form, noise, open_picture, write_templates
from kept_ports import kept_port
from serving import PATIENCE_S, Served, serving
from standardwebhooks import Webhook
from webhook_receiver import SECRET, receiving

from comfy_proxy.embedded.process import WorkerProcess

pytestmark = pytest.mark.long

JOBS = int(os.environ.get("RESTART_JOBS", "7"))
PROMPTS = int(os.environ.get("RESTART_PROMPTS", "6"))
"""``RESTART_JOBS=50 RESTART_PROMPTS=20`` is the run that the README tells of."""
SECONDS = 0.3
Pair = tuple[WorkerProcess, WorkerProcess]


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """Two instances with test nodes, each in a process of its own."""
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(
                WorkerProcess(
                    base_directory=tmp_path / name, name=name, test_nodes=True, allow_faults=True
                )
            )
            for name in ("one", "two")
        ]
        yield one, two


class Proxy:
    """A proxy that can be killed and started again, always with the same files."""

    def __init__(self, directory: Path, *hosts: str, **environ: str) -> None:
        self.directory = directory
        self._hosts = hosts
        templates = directory / "templates"
        templates.mkdir()
        write_templates(templates)
        self._environ = {
            "WORKFLOW_DIRECTORY": str(templates),
            "SHUTDOWN_TIMEOUT": "0",
        } | environ
        self._stack = AsyncExitStack()
        self.served: Served

    async def start(self) -> None:
        self._stack = AsyncExitStack()
        self.served = await self._stack.enter_async_context(
            serving(*self._hosts, logs=self.directory / "logs", **self._environ)
        )

    async def kill(self) -> None:
        """SIGKILL: nothing is written, nothing is said."""
        self.served.process.kill()
        await self._stack.aclose()

    async def stop(self) -> None:
        """SIGTERM, as a service manager stops it."""
        await self._stack.aclose()

    async def job(self, picture: bytes, *, key: str | None = None, **fields: object) -> str:
        headers = {} if key is None else {"Idempotency-Key": key}
        url = f"{self.served.url}/api/workflows/timed"
        data = form(picture, **fields)
        async with self.served.http.post(url, data=data, headers=headers) as answer:
            assert answer.status == 202, await answer.text()
            return str((await answer.json())["job_id"])

    async def prompt(self, seconds: float, salt: int, **more: Any) -> str:
        body = {"prompt": graph(seconds, salt), "prompt_id": str(uuid.uuid4()), **more}
        async with self.served.http.post(f"{self.served.url}/prompt", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return str((await answer.json())["prompt_id"])

    async def result(self, job_id: str) -> bytes:
        url = f"{self.served.url}/api/jobs/{job_id}/result?wait=60"
        async with self.served.http.get(url) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.read()

    async def end(self, prompt_id: str) -> dict[str, Any]:
        """Its entry of the history, as soon as there is one."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if entry := await self.served.get(f"/history/{prompt_id}"):
                    return dict(entry[prompt_id])
                await asyncio.sleep(0.05)


def graph(seconds: float, salt: int) -> dict[str, Any]:
    picture = {"width": 8, "height": 8, "batch_size": 1, "color": salt}
    return {
        "1": {"class_type": "EmptyImage", "inputs": picture},
        "2": {
            "class_type": "TimedPass",
            "inputs": {"image": ["1", 0], "seconds": seconds, "salt": salt},
        },
        "3": {
            "class_type": "SaveImage",
            "inputs": {"images": ["2", 0], "filename_prefix": "restart"},
        },
    }


@pytest.fixture
async def proxy(pair: Pair, tmp_path: Path) -> AsyncIterator[Proxy]:
    """One in front of the two, running."""
    file = str(tmp_path / "state" / "proxy.sqlite")
    one = Proxy(tmp_path, *(worker.url for worker in pair), STATE_FILE=file)
    await one.start()
    yield one
    await one.stop()


@pytest.fixture
async def forgetful(pair: Pair, tmp_path: Path) -> AsyncIterator[Proxy]:
    """As ``proxy``, without STATE_FILE, always at the same port."""
    with kept_port() as port:
        one = Proxy(tmp_path, *(worker.url for worker in pair), PORT=str(port))
        await one.start()
        yield one
        await one.stop()


async def test_all_that_was_accepted_ends_after_a_kill(proxy: Proxy) -> None:
    """Jobs that waited or ran give their own pictures; prompts that ran or waited at the instances
    end once each; and the key of a request still names its job."""
    pictures = [noise() for _ in range(JOBS)]
    jobs = [
        await proxy.job(picture, key=f"key {number}", seconds=SECONDS, salt=number)
        for number, picture in enumerate(pictures)
    ]
    prompts = [await proxy.prompt(SECONDS, number) for number in range(PROMPTS)]
    await proxy.kill()
    await proxy.start()
    again = await proxy.job(pictures[0], key="key 0", seconds=SECONDS, salt=0)
    assert again == jobs[0]
    for job_id, picture in zip(jobs, pictures, strict=True):
        made = open_picture(await proxy.result(job_id))
        assert made.tobytes() == open_picture(picture).tobytes()
    ends = [await proxy.end(prompt_id) for prompt_id in prompts]
    assert {end["status"]["status_str"] for end in ends} == {"success"}
    listed = await proxy.served.get("/api/jobs/list")
    assert (listed["total"], {job["status"] for job in listed["jobs"]}) == (JOBS, {"completed"})
    whole = await proxy.served.get("/history")
    assert [one for one in prompts if one in whole] == prompts
    queue = await proxy.served.get("/queue")
    assert queue == {"queue_running": [], "queue_pending": []}
    assert not proxy.served.text("error.log")


async def test_webhooks_come_after_a_kill(pair: Pair, tmp_path: Path) -> None:
    """Of a job that had ended while its receiver was down, of those that ran and of one that
    waited, with a signature that its receiver can check."""
    async with receiving(started=False) as receiver, AsyncExitStack() as stack:
        proxy = Proxy(
            tmp_path,
            *(worker.url for worker in pair),
            STATE_FILE=str(tmp_path / "state" / "proxy.sqlite"),
            MAX_CONCURRENT_JOBS="2",
            WEBHOOK_ALLOWED_HOSTS=receiver.host,
            WEBHOOK_SECRET=SECRET,
        )
        await proxy.start()
        ended = await proxy.job(noise(), webhook_url=receiver.url)
        await proxy.served.logged(lambda line: "is tried again in" in line["message"])
        begun = [await proxy.job(noise(), seconds=2.5, webhook_url=receiver.url) for _ in range(3)]
        await began(proxy, begun[0])
        await proxy.kill()
        await receiver.start()
        await proxy.start()
        stack.push_async_callback(proxy.stop)
        await receiver.next(4)
        told = [
            Webhook(SECRET).verify(one.body, one.headers)["job_id"] for one in receiver.received
        ]
        assert (told[0], set(told)) == (ended, {ended, *begun})


async def test_what_ran_at_the_kill_is_not_computed_twice(
    proxy: Proxy, pair: Pair, tmp_path: Path
) -> None:
    """A job's prompt that runs is let run to its end; the job then takes what ComfyUI has in its
    cache, at that instance."""
    pictures = [noise() for _ in range(2)]
    jobs = [
        await proxy.job(picture, seconds=2.5, salt=number)
        for number, picture in enumerate(pictures)
    ]
    for job_id in jobs:
        await began(proxy, job_id)
    await in_the_file(proxy, tmp_path / "copy", PLACED_JOBS, number=2)
    await proxy.kill()
    await proxy.start()
    for job_id, picture in zip(jobs, pictures, strict=True):
        made = open_picture(await proxy.result(job_id))
        assert made.tobytes() == open_picture(picture).tobytes()
    for worker in pair:
        async with proxy.served.http.get(f"{worker.url}/history") as answer:
            first, second = (await answer.json()).values()
        assert first["status"]["status_str"] == "success"
        assert "2" in cached(second)


def cached(entry: dict[str, Any]) -> list[str]:
    """The nodes that ComfyUI did not run again."""
    messages = dict(entry["status"]["messages"])
    return list(messages["execution_cached"]["nodes"])


async def began(proxy: Proxy, job_id: str) -> None:
    """Return when an instance runs the job."""
    async with proxy.served.http.get(f"{proxy.served.url}/api/jobs/{job_id}/events") as events:
        while b'"current_node":"2"' not in await events.content.readuntil(b"\n\n"):
            pass


async def test_the_history_of_an_instance_that_dies_with_the_proxy(
    proxy: Proxy, pair: Pair, tmp_path: Path
) -> None:
    """Both are killed: the next proxy shows what both instances have said."""
    prompts = [await proxy.prompt(0, number) for number in range(PROMPTS)]
    before = {prompt_id: await proxy.end(prompt_id) for prompt_id in prompts}
    await in_the_file(proxy, tmp_path / "copy", KEPT_ENTRIES, number=PROMPTS)
    await proxy.kill()
    await pair[0].kill()
    await proxy.start()
    for prompt_id in prompts:
        after = (await proxy.served.get(f"/history/{prompt_id}"))[prompt_id]
        assert (after["outputs"], after["status"]) == (
            before[prompt_id]["outputs"],
            before[prompt_id]["status"],
        )


KEPT_ENTRIES = "kind = 'kept-entry'"
PLACED_JOBS = """kind = 'job' AND instr(CAST(value AS TEXT), '"prompt_id":"') > 0"""
"""What a file holds, in SQL: entries of histories; jobs of which an instance has a prompt."""


async def in_the_file(proxy: Proxy, copy: Path, where: str, *, number: int) -> None:
    """Return when the file holds so many rows of that sort; it is written a moment later."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(proxy.directory / "state", copy)
            with closing(sqlite3.connect(copy / "proxy.sqlite")) as database:
                select = f"SELECT COUNT(*) FROM entries WHERE {where}"
                if database.execute(select).fetchone() == (number,):
                    return
            await asyncio.sleep(0.02)


async def test_without_a_state_file_nothing_is_left_at_the_instances(
    forgetful: Proxy, pair: Pair
) -> None:
    """Prompts of our jobs are withdrawn after the restart, for nobody waits for them; clients' own
    are left alone."""
    for number in range(6):
        await forgetful.job(noise(), seconds=60, salt=number)
    theirs = [await forgetful.prompt(60, number) for number in range(2)]
    await queued(forgetful, *pair, number=8)
    await forgetful.kill()
    await forgetful.start()
    left = await queued(forgetful, *pair, number=2)
    assert left == set(theirs)
    assert (await forgetful.served.get("/api/jobs/list"))["total"] == 0


async def queued(proxy: Proxy, *workers: WorkerProcess, number: int) -> set[str]:
    """The ids of what waits and runs at the workers, as soon as these are ``number``."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            ids = set()
            for worker in workers:
                async with proxy.served.http.get(f"{worker.url}/queue") as answer:
                    queue = await answer.json()
                ids |= {one[1] for one in queue["queue_running"] + queue["queue_pending"]}
            if len(ids) == number:
                return ids
            await asyncio.sleep(0.02)
