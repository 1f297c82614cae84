"""Any JSON where ComfyUI's clients send a name, an id or a number: no fault of ours comes of it.

A list or an object can be no key of a dictionary, and is compared with nothing. What ComfyUI says
to it is the client's answer; that the proxy's own log stays clean is looked at after each test.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from aiohttp import FormData
from files_front import picture
from prompt_client import Http, get, graph
from prompts_front import listening

pytestmark = pytest.mark.long

ODD = [[], {}, [[]], [{}], None, True, 1, -1.5, "", "\ud800", {"a": []}]


def with_each_odd(document: Any) -> Iterator[Any]:
    """``document`` with each of its values, one at a time, as each of ODD."""
    for path in _paths(document):
        for odd in ODD:
            changed = deepcopy([document])
            part: Any = changed
            *way, last = (0, *path)
            for key in way:
                part = part[key]
            part[last] = odd
            yield changed[0]


def _paths(value: Any) -> Iterator[tuple[Any, ...]]:
    yield ()
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        if isinstance(inner, dict | list) and inner:
            yield from ((key, *path) for path in _paths(inner))
        else:
            yield (key,)


PROMPT = {
    "prompt": graph(),
    "client_id": "me",
    "prompt_id": "p",
    "number": 1,
    "front": True,
    "extra_data": {"client_id": "me", "extra_pnginfo": {"workflow": {"id": "w"}}},
    "partial_execution_targets": ["3"],
}


@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("/queue", {"delete": ["a"], "clear": False}),
        ("/history", {"delete": ["a"], "clear": False}),
        ("/interrupt", {"prompt_id": "a"}),
        ("/free", {"unload_models": True, "free_memory": True}),
        ("/api/jobs/cancel", {"job_ids": ["a"]}),
        ("/api/assets/from-hash", {"hash": "blake3:00", "name": "n", "tags": ["input"]}),
        ("/api/tags", {"tags": ["a"]}),
        ("/internal/logs/subscribe", {"clientId": "a", "enabled": True}),
        ("/api/v2/assets/from-hash", {"hash": "blake3:00", "expires_in": 60}),
    ],
)
async def test_bodies(proxy: Http, path: str, document: Any) -> None:
    for body in with_each_odd(document):
        async with proxy.post(path, data=json.dumps(body).encode()) as answer:
            told = await answer.text()
        assert "internal" not in told or path.startswith("/internal"), (body, told)


async def test_prompts(proxy: Http) -> None:
    """Names of files are left out: our workers read a file before a node may not be run."""
    for body in with_each_odd(PROMPT):
        async with proxy.post("/prompt", data=json.dumps(body).encode()) as answer:
            told = await answer.text()
        assert "internal_error" not in told, (body, told)
    await get(proxy, "/queue")
    async with proxy.post("/queue", json={"clear": True}):
        pass


async def test_jobs_of_the_comfy_api(proxy: Http) -> None:
    reference = {"__type": "core/ASSET", "info": {"id": "i", "hash": "h"}}
    workflow = graph() | {"4": {"class_type": "EmptyImage", "inputs": {"width": reference}}}
    fields = {"metadata": {"a": "b"}, "priority": 1, "extra_data": {"api_key_comfy_org": "k"}}
    for body in with_each_odd({"workflow": workflow, **fields}):
        async with proxy.post("/api/v2/jobs", data=json.dumps(body).encode()) as answer:
            assert answer.status < 500, (body, await answer.text())


async def test_originals_of_masks(proxy: Http) -> None:
    reference = {"filename": "o.png", "subfolder": "s", "type": "input"}
    for body in with_each_odd(reference):
        form = FormData()
        form.add_field("image", picture("red"), filename="m.png", content_type="image/png")
        form.add_field("original_ref", json.dumps(body))
        async with proxy.post("/upload/mask", data=form) as answer:
            assert "internal_error" not in await answer.text(), body


async def test_messages_on_the_socket(proxy: Http) -> None:
    flags = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
    for body in with_each_odd(flags):
        async with listening(proxy) as listener:
            await listener._socket.send_str(json.dumps(body))
