"""Lists of megabytes are put together a few kilobytes at a time: nobody waits behind them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from gateway_harness import Harness
from views_harness import front

from comfy_proxy.json_listing import STEP_BYTES
from comfy_proxy.json_scanner import JsonScanner

pytestmark = pytest.mark.long

COUNT = 12_000
LONGEST = 2 * STEP_BYTES
"""What is read or written at once is a step, and at most as much again for what it ends with."""
OUTPUT = {"filename": "a.png", "subfolder": "", "type": "output", "nodeId": "9"}


def job(name: str, number: int) -> dict[str, Any]:
    ends = {"execution_start_time": number, "execution_end_time": number + 5}
    head = {"id": f"{name}-{number}", "status": "completed", "create_time": number}
    return {**head, "priority": number, **ends, "outputs_count": 1, "preview_output": OUTPUT}


def asset(name: str, number: int) -> dict[str, Any]:
    metadata = {f"key {n}": [n, {"a": [n]}] for n in range(600)}
    head = {"id": f"{name}-{number}", "name": f"n{number}", "display_name": None, "hash": None}
    times = {"created_at": f"2026-01-01T00:{number:04}Z", "updated_at": "2026-01-01T00:00:00Z"}
    url = "/api/view?type=output&filename=c.png"
    more = {"tags": ["output"], "user_metadata": metadata, "preview_url": url}
    return {**head, "size": number, **more, **times}


def answers(name: str) -> dict[str, Any]:
    jobs = [job(name, number) for number in range(COUNT)]
    pages = {"offset": 0, "limit": None, "total": COUNT, "has_more": False}
    models = [{"name": f"{name}/{n}.safetensors", "pathIndex": 0} for n in range(COUNT)]
    queue = {"queue_running": [], "queue_pending": [[n, f"{name}{n}", {}] for n in range(COUNT)]}
    return {
        "/api/jobs": {"jobs": jobs, "pagination": pages},
        "/api/assets": {
            "assets": [asset(name, number) for number in range(100)],
            "total": 100,
            "has_more": False,
        },
        "/experiment/models/loras": models,
        "/models/loras": [one["name"] for one in models],
        "/queue": queue,
    }


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many bytes were read, written or scanned at once."""
    found: list[int] = []
    loads, dumps, feed = json.loads, json.dumps, JsonScanner.feed

    def read(text: Any, *args: Any, **options: Any) -> Any:
        found.append(len(text))
        return loads(text, *args, **options)

    def written(data: Any, *args: Any, **options: Any) -> str:
        text = dumps(data, *args, **options)
        found.append(len(text))
        return text

    def fed(scanner: JsonScanner, piece: bytes) -> None:
        found.append(len(piece))
        feed(scanner, piece)

    monkeypatch.setattr(json, "loads", read)
    monkeypatch.setattr(json, "dumps", written)
    monkeypatch.setattr(JsonScanner, "feed", fed)
    yield found
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("path", "count"),
    [
        ("/api/jobs", 2 * COUNT),
        ("/api/assets?limit=500", 200),
        ("/experiment/models/loras", 2 * COUNT),
        ("/models/loras", 2 * COUNT),
        ("/queue", 2 * COUNT),
    ],
)
async def test_no_more_than_a_step_at_once(
    path: str, count: int, harness: Harness, request: pytest.FixtureRequest
) -> None:
    """All of it arrives, as ComfyUI writes it, with the marks of the instances in it."""

    def instance(name: str) -> Any:
        texts = {where: json.dumps(one).encode() for where, one in answers(name).items()}

        async def handle(asked: web.Request) -> web.Response:
            text = texts.get(asked.path, b"{}")
            return web.Response(body=text, content_type="application/json")

        return handle

    urls = [str(await harness.upstream(instance(name))) for name in ("one", "two")]
    async with front(*urls) as (client, _):
        seen: list[int] = request.getfixturevalue("seen")
        async with client.get(path) as answer:
            assert answer.status == 200
            body = await answer.read()
        assert max(seen) <= LONGEST
    shown = json.loads(body)
    keys = {"/api/jobs": "jobs", "/api/assets": "assets", "/queue": "queue_pending"}
    key = keys.get(path.partition("?")[0])
    items = shown if key is None else shown[key]
    assert len(items) == count
    assert json.dumps(shown).encode() == body
    if key == "jobs":
        assert {one["preview_output"]["subfolder"] for one in items} == {"@1", "@2"}
        assert [one["create_time"] for one in items][:4] == [COUNT - 1] * 2 + [COUNT - 2] * 2
    if key == "assets":
        assert {one["preview_url"][-4:] for one in items} == {"%401", "%402"}
