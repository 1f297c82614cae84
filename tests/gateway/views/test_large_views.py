"""Queues and histories of any size: passed on from a disk, byte for byte, and never a strike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from gateway_harness import Harness
from state_harness import eventually
from views_harness import FakeInstance, entry, finished, front, two_fakes

from comfy_proxy import stored_bytes
from comfy_proxy.cluster import answer_bodies
from comfy_proxy.gateway.exchange import scanned

MIB = 2**20


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where answers are kept; nothing of them stays in memory."""
    monkeypatch.setattr(scanned, "MEMORY_BYTES", 0)
    monkeypatch.setattr(stored_bytes.tempfile, "tempdir", str(tmp_path))
    return tmp_path


def files(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def fill(one: FakeInstance, two: FakeInstance) -> None:
    """Entries that have everything in them."""
    for number, instance in enumerate((one, two)):
        for n in range(3):
            graph = {"1": {"inputs": {"x": float("nan"), "image": "A" * 300_000, "é\ud800": 2**70}}}
            instance.pending.append(entry(f"w{number}{n}", n, number))
            instance.pending[-1][2] = graph
            done = finished(f"e{number}{n}", n, 10 * n + number)
            done["prompt"][2] = graph
            instance.history[f"e{number}{n}"] = done
        instance.running.append(entry(f"r{number}"))


@pytest.mark.long
@pytest.mark.parametrize(
    "path", ["/queue", "/history", "/history?max_items=2&offset=1", "/history/e11"]
)
async def test_what_is_on_a_disk_is_the_same_to_a_byte(
    path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Marks and numbers stand in it, all else as it came, with its length; no file is left."""
    monkeypatch.setattr(stored_bytes.tempfile, "tempdir", str(tmp_path))
    async with two_fakes() as (one, two), front(one, two) as (client, _):
        fill(one, two)
        answers = []
        for memory_bytes in (10 * MIB, 0):
            monkeypatch.setattr(scanned, "MEMORY_BYTES", memory_bytes)
            async with client.get(path) as answer:
                body = await answer.read()
                assert answer.headers["Content-Length"] == str(len(body))
                answers.append((answer.status, dict(answer.headers), body))
            async with client.head(path) as answer:
                assert (answer.status, await answer.read()) == (200, b"")
                assert answer.headers["Content-Length"] == str(len(body))
        in_memory, on_disk = answers
        for _, headers, _ in answers:
            headers.pop("Date")
        assert on_disk == in_memory
        assert json.dumps(json.loads(in_memory[2])).encode() == in_memory[2]
        await eventually(lambda: not files(tmp_path))


async def test_a_refusal_on_a_disk_is_relayed(on_disk: Path) -> None:
    """What is no queue and no history is the instance's own answer, however long it is."""
    async with two_fakes() as (one, two), front(one, two) as (client, _):
        one.status = two.status = 500
        for path in ("/queue", "/history", "/history/x"):
            async with client.get(path) as answer:
                assert (answer.status, await answer.text()) == (500, "broken")


class LargeInstance:
    """A queue and a history of so many MiB, most of it a picture in a graph; made as it is sent."""

    def __init__(self, name: str, mib: int) -> None:
        self.name = name
        self.mib = mib

    def entry(self) -> tuple[bytes, bytes]:
        """What stands before the picture and behind it."""
        before = b'[7, "%s", {"1": {"inputs": {"x": NaN, "image": "' % self.name.encode()
        return before, b'"}}}, {"create_time": 5}, ["1"]]'

    async def handle(self, request: web.Request) -> web.StreamResponse:
        before, behind = self.entry()
        if request.path.startswith("/history/") and not request.path.endswith(self.name):
            return web.json_response({})
        if request.path.startswith("/history"):
            before = b'{"%s": {"prompt": ' % self.name.encode() + before
            rest = finished(self.name, 1, 2)
            del rest["prompt"]
            behind += b", " + json.dumps(rest).encode()[1:] + b"}"
        else:
            before, behind = b'{"queue_running": [], "queue_pending": [' + before, behind + b"]}"
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        answer.content_length = len(before) + self.mib * MIB + len(behind)
        await answer.prepare(request)
        await answer.write(before)
        piece = b"A" * MIB
        for _ in range(self.mib):
            await answer.write(piece)
        await answer.write_eof(behind)
        return answer


@pytest.mark.long
@pytest.mark.parametrize(("path", "count"), [("/queue", 2), ("/history", 2), ("/history/two", 1)])
async def test_seventy_mib_of_each_instance(harness: Harness, path: str, count: int) -> None:
    """Graphs with pictures in them, far beyond what is kept in memory: all of it arrives."""
    mib = 70
    urls = [str(await harness.upstream(LargeInstance(name, mib).handle)) for name in ("one", "two")]
    async with front(*urls) as (client, gateway):
        size, beginning, end = 0, b"", b""
        async with client.get(path) as answer:
            assert answer.status == 200
            async for piece in answer.content.iter_any():
                size += len(piece)
                beginning, end = (beginning + piece[:200])[:200], (end + piece)[-1000:]
        assert int(answer.headers["Content-Length"]) == size > count * mib * MIB
        if path == "/queue":
            assert beginning.startswith(
                b'{"queue_running": [], "queue_pending": [[7, "one", {"1": '
            )
        else:
            assert b'"subfolder": "@2"' in end
        assert not any(instance.failing for instance in gateway.cluster.instances)


async def test_a_client_that_leaves_leaves_no_file(harness: Harness, on_disk: Path) -> None:
    """It read a little of a large answer and went away."""
    urls = [str(await harness.upstream(LargeInstance(name, 8).handle)) for name in ("one", "two")]
    async with front(*urls) as (client, _):
        async with client.get("/history") as answer:
            await answer.content.readany()
            assert files(on_disk)
            answer.close()
        await eventually(lambda: not files(on_disk))


async def test_a_disk_that_is_full_is_told_and_no_strike(
    harness: Harness, on_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 that says so."""

    def full(*_: object, **__: object) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored_bytes.tempfile, "mkstemp", full)
    urls = [str(await harness.upstream(LargeInstance(name, 1).handle)) for name in ("one", "two")]
    async with front(*urls) as (client, gateway):
        async with client.get("/history") as answer:
            assert answer.status == 503
            assert (await answer.json())["code"] == "storage_unavailable"
        assert not any(instance.failing for instance in gateway.cluster.instances)


async def test_beyond_the_limit_it_is_told_and_no_strike(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """502 that says so; a view without that instance's part would be wrong."""
    monkeypatch.setattr(answer_bodies, "MAX_SCANNED_BYTES", MIB)
    urls = [str(await harness.upstream(LargeInstance(name, 2).handle)) for name in ("one", "two")]
    async with front(*urls) as (client, gateway):
        for path in ("/queue", "/history"):
            async with client.get(path) as answer:
                assert answer.status == 502
                assert (await answer.json())["code"] == "instance_answer_too_large"
        assert not any(instance.failing for instance in gateway.cluster.instances)


async def test_one_job_of_any_size_is_marked(harness: Harness, on_disk: Path) -> None:
    """Its workflow passes as it came."""
    picture = {"filename": "a.png", "subfolder": "", "type": "output"}
    job = b'{"id": "a", "workflow": {"x":NaN, "y": "%s"}, "preview_output": %s, "outputs": [%s]}'
    picture_text = json.dumps(picture).encode()
    text = job % (b"A" * MIB, picture_text, picture_text)
    missing = b'{"error": "Job not found"}'

    async def says(_request: web.Request) -> web.Response:
        return web.Response(body=text, content_type="application/json")

    async def absent(_request: web.Request) -> web.Response:
        return web.Response(status=404, body=missing, content_type="application/json")

    urls = [str(await harness.upstream(one)) for one in (absent, says)]
    async with front(*urls) as (client, _), client.get("/api/jobs/a") as answer:
        marked = picture_text.replace(b'""', b'"@2"')
        assert await answer.read() == job % (b"A" * MIB, marked, marked)
