"""Bodies of ``POST /prompt``: large ones in files and pieces, and all of them bounded."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from prompts_front import ended, graph, post

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.gateway.prompts import large_prompt, posted, posting, prompt_admission
from comfy_proxy.keys import GATEWAY
from comfy_proxy.stored_bytes import StoredBytes


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies of 200 bytes are large."""
    for module in (large_prompt, posted, posting):
        monkeypatch.setattr(module, "LARGE_BYTES", 200)
    monkeypatch.setattr(posting, "_PIECE_BYTES", 64)


@pytest.mark.usefixtures("small_is_large")
async def test_a_large_prompt_runs_as_it_was_posted(
    proxy: TestClient[Any, Any], workers: tuple[EmbeddedWorker, EmbeddedWorker]
) -> None:
    """Its file is gone as soon as it was taken."""
    note = {"note": "x" * 300}
    prompt_ids = [await post(proxy, graph(0.0), extra_data=note) for _ in range(2)]
    entries = await ended(proxy, *prompt_ids)
    assert {one["status"]["status_str"] for one in entries.values()} == {"success"}
    assert sorted(prompt_ids) == sorted([*workers[0].executed, *workers[1].executed])
    gc.collect()
    assert not [one for one in gc.get_objects() if type(one) is StoredBytes and not one.closed]


@pytest.mark.usefixtures("small_is_large")
async def test_a_large_body_that_is_no_prompt_has_comfyuis_answer(
    proxy: TestClient[Any, Any],
) -> None:
    async with proxy.post("/prompt", data=b'{"prompt": ' + b"[" * 300) as answer:
        assert answer.status in (400, 500)


@pytest.mark.long
async def test_one_prompt_too_many_is_503_with_retry_after(
    proxy: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until one has ended; so with their bytes."""
    monkeypatch.setattr(prompt_admission, "MAX_PROMPTS", 1)
    first = await post(proxy, graph(0.3))
    body = json.dumps({"prompt": graph(0.0)})
    async with proxy.post("/prompt", data=body) as answer:
        assert (answer.status, (await answer.json())["code"]) == (503, "queue_full")
        assert int(answer.headers["Retry-After"]) >= 1
    await ended(proxy, first)
    monkeypatch.undo()
    second = await post(proxy, graph(0.3))
    monkeypatch.setattr(proxy.app[GATEWAY].admission, "_max_bytes", 1)
    async with proxy.post("/prompt", data=body) as answer:
        assert (answer.status, (await answer.json())["code"]) == (503, "queue_full")
    await ended(proxy, second)


async def test_one_large_body_at_a_time_is_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """And as many as MAX_LARGE_IN_MEMORY are in memory."""
    reader, inside, most = posted.PostedPrompts(), 0, 0
    monkeypatch.setattr(posted, "LARGE_BYTES", 10)
    may_go = asyncio.Event()

    async def content() -> Any:
        yield b'{"prompt": {}, "client_id": "c"}'

    async def one() -> None:
        nonlocal inside, most
        async with reader.taken_in(content(), "utf-8") as (body, document):  # type: ignore[arg-type]
            assert json.loads(body) == document
            inside += 1
            most = max(most, inside)
            if inside == posted.MAX_LARGE_IN_MEMORY:
                may_go.set()
            await may_go.wait()
            inside -= 1

    await asyncio.gather(*(one() for _ in range(6)))
    assert most == posted.MAX_LARGE_IN_MEMORY
