"""What clients ask of the prompts that they have posted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aiohttp
from job_client import PATIENCE_S, until
from prompt_client import Http, Json, get, graph, post

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import GATEWAY
from comfy_proxy.ledger.prompt import Prompt


async def ended(http: Http, prompt_id: str) -> Json:
    """Its entry of the history, as soon as there is one."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if found := await get(http, f"/history/{prompt_id}"):
                return dict(found[prompt_id])
            await asyncio.sleep(0.002)


def living(http: Http) -> list[Prompt]:
    """What the proxy believes has not ended."""
    return list(http.app[GATEWAY].ledger.live())


def place_of(http: Http, prompt_id: str) -> str | None:
    """The URL of the instance that has it, as far as the proxy knows."""
    owner = http.app[GATEWAY].ledger.owner(prompt_id)
    return None if owner is None else str(owner.url)


@asynccontextmanager
async def listening(http: Http, client_id: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with http.ws_connect(f"/ws?clientId={client_id}") as socket:
        yield socket


async def heard(socket: aiohttp.ClientWebSocketResponse, kind: str, prompt_id: str) -> Json:
    """The data of the first event of that kind about that prompt."""
    async with asyncio.timeout(PATIENCE_S):
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                event = json.loads(message.data)
                if event["type"] == kind and event["data"].get("prompt_id") == prompt_id:
                    return dict(event["data"])
    raise AssertionError(f"no {kind}")


async def both_busy(http: Http, workers: Sequence[EmbeddedWorker]) -> list[str]:
    """A prompt that takes a minute at each instance; their ids."""
    started = [len(worker.started) for worker in workers]
    ids = [await post(http, graph(60.0)) for _ in workers]
    pairs = list(zip(workers, started, strict=True))
    await until(lambda: all(len(worker.started) > before for worker, before in pairs))
    return ids


async def succeeded(http: Http, *prompt_ids: str) -> None:
    """Return when all have; fails if one ends otherwise."""
    for prompt_id in prompt_ids:
        assert (await ended(http, prompt_id))["status"]["status_str"] == "success"
