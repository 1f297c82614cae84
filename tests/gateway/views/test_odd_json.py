"""One odd entry in what an instance says hides no other, and decides about nothing."""

from __future__ import annotations

import json
import math
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from gateway_harness import Harness
from views_harness import entry, finished, front, get, moving, two_fakes


def saying(text: bytes) -> Any:
    async def handle(_request: web.Request) -> web.Response:
        return web.Response(body=text, content_type="application/json")

    return handle


async def test_odd_entries_of_a_queue_hide_no_other(harness: Harness) -> None:
    """What is no entry, has no id or one that is no string is shown as it came."""
    once = b'null, 7, {"a": 1}, [], [1], [2, 3, {}], [3, ["x"], {}]'
    ids = b'["n", "s", {}, 5], [NaN, "caf\xe9"]'
    queue = b'{"queue_running": [%s, %s], "queue_pending": [%s, %s, [-1, "first", {}, {}, []]]}'
    queue %= (once, ids, once, ids)
    urls = [str(await harness.upstream(saying(queue))) for _ in range(2)]
    async with front(*urls) as (client, _), client.get("/queue") as answer:
        body = await answer.read()
    # Twice, but for the ids that both show running: they are one prompt.
    assert body.startswith(b'{"queue_running": [' + once + b", " + ids + b", " + once + b"], ")
    assert b'"queue_pending": [[-1, "first", {}, {}, []], null' in body
    assert body.count(b'"first"') == 1


async def test_odd_entries_of_a_history_hide_no_other(harness: Harness) -> None:
    """Ends that are no numbers, entries that are none, names that are no UTF-8."""
    end = {"status": {"messages": [["execution_success", {"timestamp": math.inf}]]}}
    odd = {"a": None, "b": 7, "c": [], "d": {}, "e": {"prompt": 3, "outputs": 4, "status": 5}}
    odd |= {"f": {**end, "prompt": [1, "f"]}, "g": {"prompt": [], "outputs": {"9": [math.nan]}}}
    text = json.dumps(odd).encode()
    texts = (text[:-1] + b', "caf\xe9": {}}', json.dumps({"z": finished("z", 1, 2)}).encode())
    urls = [str(await harness.upstream(saying(one))) for one in texts]
    async with front(*urls) as (client, _), client.get("/history") as answer:
        body = await answer.read()
    assert body.startswith(texts[0][:-1] + b", ")
    shown = json.loads(body.replace(b"\xe9", b""))
    assert shown["z"]["outputs"]["9"]["images"][0]["subfolder"] == "@2"


async def test_odd_items_of_lists_hide_no_other(harness: Harness) -> None:
    """A job without an id is left out; a file whose name is no string is shown."""
    job = {"id": "a", "status": "pending", "create_time": math.nan}
    listed = {"jobs": [None, {"id": ["x"]}, job], "pagination": {"total": 3}}

    async def handle(request: web.Request) -> web.Response:
        return web.json_response(listed if "jobs" in request.path else [["x"], None, "caf\udce9"])

    urls = [str(await harness.upstream(handle)) for _ in range(2)]
    async with front(*urls) as (client, _):
        jobs = await get(client, "/api/jobs")
        assert [one["id"] for one in jobs["jobs"]] == ["a"]
        assert jobs["pagination"]["total"] == 1
        assert await get(client, "/internal/files/output") == [["x"], None, "caf\udce9"]


async def test_a_job_that_is_too_deep_to_be_read_hides_no_other(harness: Harness) -> None:
    """A client may choose its workflow's id, and a newer Python writes more than ours reads."""
    odd = b'{"id": "deep", "workflow_id": %s}' % (b"[" * 1_500 + b"]" * 1_500)
    jobs = b'{"jobs": [%s, {"id": "a", "status": "pending"}], "pagination": {"total": 2}}' % odd
    async with front(*[str(await harness.upstream(saying(jobs))) for _ in range(2)]) as (client, _):
        shown = await get(client, "/api/jobs")
    assert [one["id"] for one in shown["jobs"]] == ["a"]
    assert shown["pagination"]["total"] == 1


@pytest.mark.long
@pytest.mark.parametrize("depth", [400, *range(600, 980, 20), 1_500])
async def test_a_job_with_deep_outputs_hides_no_other(harness: Harness, depth: int) -> None:
    """To mark the files in them takes more calls than to read them: then it is shown as it came."""
    odd = b'{"id": "deep", "preview_output": %s}' % (b"[" * depth + b"]" * depth)
    jobs = b'{"jobs": [%s, {"id": "a", "status": "pending"}], "pagination": {"total": 2}}' % odd
    async with front(*[str(await harness.upstream(saying(jobs))) for _ in range(2)]) as (client, _):
        shown = await get(client, "/api/jobs")
    assert {one["id"] for one in shown["jobs"]} - {"deep"} == {"a"}


async def test_a_moving_prompt_has_its_turn_beside_odd_numbers() -> None:
    """NaN as a number puts nothing out of order."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        one.pending = [entry("c", 3), entry("nan", math.nan), entry("a", 1)]
        moving(gateway, "b", 2)
        queue = await get(client, "/queue")
        assert [row[1] for row in queue["queue_pending"]] == ["nan", "a", "b", "c"]


async def test_an_answer_to_a_client_that_accepts_gzip_is_ours_to_read(harness: Harness) -> None:
    """Instances that compress for whoever accepts it are asked not to."""
    seen: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(request.headers["Accept-Encoding"])
        answer = web.json_response({"queue_running": [], "queue_pending": [[0, "a" * 2000]]})
        answer.enable_compression()
        return answer

    urls = [str(await harness.upstream(handle)) for _ in range(2)]
    async with front(*urls) as (client, _):
        async with client.get("/queue", headers={"Accept-Encoding": "gzip"}) as answer:
            assert len((await answer.json())["queue_pending"]) == 1
        async with aiohttp.ClientSession() as session, session.get(client.make_url("/history/a")):
            pass
    assert set(seen) == {"identity"}
