"""What others have put into an instance, odd names, NaN, ids of any kind, hinders nobody."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from prompts_front import LONG_S, Workers, ended, graph, interrupt, pile_up, post, show, until

from comfy_proxy.keys import CLUSTER
from comfy_proxy.metrics.records import Outcome, PromptEnd

Proxy = TestClient[web.Request, web.Application]
NOT_UTF8 = "caf\udce9.png"

names_are_bytes = pytest.mark.skipif(sys.platform != "linux", reason="File names are text there.")


def put(path: str, picture: bytes) -> None:
    """A file whose name need not be UTF-8."""
    with open(os.fsencode(path), "wb") as file:
        file.write(picture)


@names_are_bytes
@pytest.mark.parametrize("where", [[0], [0, 1]])
async def test_jobs_run_where_a_file_name_is_no_utf8(
    proxy: Proxy, workers: Workers, picture: bytes, where: list[int]
) -> None:
    """LoadImage lists every file of the input folder; what a class lists decides about no job."""
    for index in where:
        put(str(workers[index].folders.base / "input" / NOT_UTF8), picture)
    for _ in range(4):
        form = aiohttp.FormData()
        form.add_field("imageFile", picture, filename="a.png", content_type="image/png")
        async with proxy.post("/api/upscale-image?mode=sync&scale=1", data=form) as answer:
            assert answer.status == 200, await answer.text()
    for instance in proxy.app[CLUSTER].instances:
        assert (instance.healthy, instance.last_error) == (True, None)


@names_are_bytes
async def test_a_file_name_that_is_no_utf8_is_listed(
    proxy: Proxy, workers: Workers, picture: bytes
) -> None:
    """Merged, as one class and as a whole, it is what ComfyUI says."""
    for worker in workers:
        put(str(worker.folders.base / "input" / NOT_UTF8), picture)
    for path in ("/object_info/LoadImage", "/object_info"):
        async with proxy.get(path) as answer:
            info = json.loads(await answer.read())["LoadImage"]
        assert NOT_UTF8 in info["input"]["required"]["image"][0]


async def submit_raw(worker: Any, body: str) -> None:
    async with (
        aiohttp.ClientSession(worker.url) as session,
        session.post("/prompt", data=body, headers={"Content-Type": "application/json"}) as answer,
    ):
        assert answer.status == 200, await answer.text()


async def test_prompts_move_past_one_with_nan(proxy: Proxy, workers: Workers) -> None:
    """Anybody's NaN in a queue keeps no waiting prompt from the instance that runs empty."""
    blocker, *waiting = await pile_up(proxy, workers, 4)
    odd = graph(LONG_S)
    odd["2"]["inputs"]["x"] = float("nan")
    await submit_raw(workers[0], json.dumps({"prompt": odd, "prompt_id": "\ud800"}))
    await show(proxy, workers[1])
    await ended(proxy, *waiting)
    assert workers[1].executed == waiting
    async with proxy.post("/queue", json={"delete": ["\ud800"]}) as answer:
        assert answer.status == 200
    await interrupt(proxy, blocker)
    await until(lambda: not workers[0].queue_remaining)


async def test_a_prompt_with_nan_moves_as_it_is(proxy: Proxy, workers: Workers) -> None:
    """With NaN and integers beyond 64 bits it arrives and runs."""
    blocker, *_ = await pile_up(proxy, workers, 1)
    odd = graph(0.01)
    odd["2"]["inputs"] |= {"x": float("nan"), "y": 2**70}
    body = json.dumps({"prompt": odd, "prompt_id": "odd"})
    async with proxy.post("/prompt", data=body) as answer:
        assert answer.status == 200, await answer.text()
    moved = [await post(proxy, graph(0.01)) for _ in range(3)]
    await show(proxy, workers[1])
    await ended(proxy, "odd", *moved)
    assert "odd" in workers[1].executed
    async with proxy.get("/history/odd") as answer:
        assert json.dumps(odd) in await answer.text()
    await interrupt(proxy, blocker)
    await until(lambda: not workers[0].queue_remaining)


async def test_an_odd_id_that_was_deleted_hides_no_other(proxy: Proxy, workers: Workers) -> None:
    """Each is looked for by its id: a lone surrogate stands in no path, and stops nobody."""
    ends: list[PromptEnd] = []
    proxy.app[CLUSTER].on_prompt_end.append(ends.append)
    blockers = [await post(proxy, graph(LONG_S)) for _ in workers]
    odd = [await post(proxy, graph(), prompt_id=f"\ud800{n}") for n in range(3)]
    plain = [await post(proxy, graph()) for _ in range(3)]
    for prompt_id in (*odd, *plain):
        async with proxy.post("/queue", json={"delete": [prompt_id]}) as answer:
            assert answer.status == 200
    await until(lambda: len(ends) == 6)
    assert {end.prompt_id for end in ends} == {*odd, *plain}
    assert {end.outcome for end in ends} == {Outcome.CANCELLED}
    await interrupt(proxy, *blockers)
    await until(lambda: len(ends) == 8)


@pytest.mark.long
@pytest.mark.parametrize("odd", ["\ud800", "a\udce9b"])
async def test_no_id_hides_the_end_of_others(proxy: Proxy, workers: Workers, odd: str) -> None:
    """A lone surrogate stands in no path: its own end is found too, and it costs no strike."""
    ends: list[PromptEnd] = []
    proxy.app[CLUSTER].on_prompt_end.append(ends.append)
    ids = [await post(proxy, graph(), prompt_id=odd)]
    ids += [await post(proxy, graph()) for _ in range(6)]
    await until(lambda: len(ends) == 7)
    assert {end.prompt_id for end in ends} == {*ids}
    async with proxy.get("/metrics", headers={"Accept": "text/plain; version=0.0.4"}) as answer:
        assert answer.status == 200
    assert [one.breaker.consecutive_failures for one in proxy.app[CLUSTER].instances] == [0, 0]
