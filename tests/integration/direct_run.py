"""The same graph without any proxy: what the worker itself answers is the truth to compare with."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import aiohttp

from comfy_proxy.embedded.worker import EmbeddedWorker


async def run_again(worker: EmbeddedWorker, prompt_id: str) -> bytes:
    """The picture of a graph that ran at ``worker`` as ``prompt_id``, run once more directly."""
    async with aiohttp.ClientSession(worker.url) as session:
        entry = (await _json(session, f"/history/{prompt_id}"))[prompt_id]
        graph: dict[str, Any] = entry["prompt"][2]
        for node in graph.values():
            if node["class_type"] == "SaveImageWebsocket":
                node["class_type"] = "PreviewImage"
        again = str(uuid.uuid4())
        body = {"prompt": graph, "prompt_id": again, "client_id": "direct"}
        async with session.post("/prompt", json=body) as answer:
            assert answer.status == 200, await answer.text()
        async with asyncio.timeout(20):
            history: Any = {}
            while not history:
                await asyncio.sleep(0.005)
                history = await _json(session, f"/history/{again}")
        (output,) = history[again]["outputs"].values()
        async with session.get("/view", params=output["images"][0]) as answer:
            assert answer.status == 200
            return await answer.read()


async def _json(session: aiohttp.ClientSession, path: str) -> Any:
    async with session.get(path) as answer:
        return await answer.json()
