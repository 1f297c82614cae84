"""A client of one ComfyUI without any proxy: what it answers is the truth to compare with."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import aiohttp

PATIENCE_S = 30.0


async def run_direct(url: str, graph: dict[str, Any]) -> bytes:
    """Run ``graph`` at ``url`` and return the first picture of its output node."""
    client_id, prompt_id = uuid.uuid4().hex, str(uuid.uuid4())
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}/ws?clientId={client_id}", max_msg_size=0) as ws,
    ):
        body = {"prompt": graph, "client_id": client_id, "prompt_id": prompt_id}
        async with session.post(f"{url}/prompt", json=body) as response:
            assert response.status == 200, await response.text()
        files: list[dict[str, str]] = []
        async for message in ws:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            frame = json.loads(message.data)
            if frame["data"].get("prompt_id") != prompt_id:
                continue
            if frame["type"] == "executed":
                files = frame["data"]["output"]["images"]
            assert frame["type"] != "execution_error", frame
            if frame["type"] == "execution_success":
                break
        async with session.get(f"{url}/view", params=files[0]) as response:
            assert response.status == 200
            return await response.read()


async def graph_of(url: str, prompt_id: str) -> dict[str, Any]:
    """The graph that ran at ``url`` under ``prompt_id``, its picture sent to a file instead.

    A job is done at ``execution_success``, a moment before ComfyUI writes its history.
    """
    entries: dict[str, Any] = {}
    async with asyncio.timeout(PATIENCE_S), aiohttp.ClientSession() as session:
        while prompt_id not in entries:
            async with session.get(f"{url}/history/{prompt_id}") as response:
                entries = await response.json()
    graph: dict[str, Any] = entries[prompt_id]["prompt"][2]
    for node in graph.values():
        if node["class_type"] == "SaveImageWebsocket":
            node["class_type"] = "PreviewImage"
    return graph
