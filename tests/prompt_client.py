"""Prompts as ComfyUI's clients post them to the proxy."""

from __future__ import annotations

import itertools
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient

Http = TestClient[web.Request, web.Application]
Json = dict[str, Any]
_salts = itertools.count(1)


def graph(seconds: float = 0.0, *, color: int | None = None, prefix: str = "same") -> Json:
    """A picture of one colour that takes its time and is saved; never cached."""
    salt = next(_salts)
    empty = {"width": 8, "height": 8, "batch_size": 1, "color": salt if color is None else color}
    timed = {"image": ["1", 0], "seconds": seconds, "salt": salt}
    return {
        "1": {"class_type": "EmptyImage", "inputs": empty},
        "2": {"class_type": "TimedPass", "inputs": timed},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": prefix}},
    }


async def post(http: Http, prompt: Json | None = None, **fields: Any) -> str:
    """Submit a graph; its id."""
    body = {"prompt": graph() if prompt is None else prompt, **fields}
    async with http.post("/prompt", json=body) as answer:
        assert answer.status == 200, await answer.text()
        return str((await answer.json())["prompt_id"])


async def get(http: Http, path: str) -> Any:
    async with http.get(path) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()
