"""Prompts that move away from an instance that dies in that moment: each goes on, and runs once."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.test_utils import TestClient
from prompts_front import (
    Workers,
    ended,
    graph,
    instance_of,
    interrupt,
    pile_up,
    show,
)

from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.errors import InstanceUnreachableError
from comfy_proxy.keys import CLUSTER, GATEWAY
from comfy_proxy.ledger import events


async def test_one_that_was_lost_is_not_deleted_where_it_runs_again(
    proxy: TestClient, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old instance does not say what it deleted, and dies; it is started again and gets the
    prompt back: that one is not deleted there by whoever was about to move the first."""
    ledger = proxy.app[GATEWAY].ledger
    blocker, *waiting = await pile_up(proxy, workers, 3)
    instance = instance_of(proxy, workers[0])
    asked = asyncio.Event()
    lost = ledger.find(waiting[0])
    delete = ComfyUIClient.delete

    async def unsaid(client: ComfyUIClient, prompt_id: str) -> bool:
        if prompt_id != lost.prompt_id or asked.is_set():
            return await delete(client, prompt_id)
        asked.set()
        raise InstanceUnreachableError("It does not say what it deleted.")

    monkeypatch.setattr(ComfyUIClient, "delete", unsaid)
    await show(proxy, workers[1])
    await asked.wait()
    # It begins, its process ends, and it is submitted there again, behind another one.
    ledger.apply(events.Began(prompt_id=lost.prompt_id, instance=instance))
    ledger.apply(events.Lost(prompt=lost, ran=True))
    client = proxy.app[CLUSTER].clients[instance]
    await delete(client, lost.prompt_id)
    ledger.apply(events.Sent(prompt=lost, instance=instance))
    await client.submit(graph(), prompt_id=lost.prompt_id, client_id="")
    ledger.apply(events.Accepted(prompt=lost, prompt_id=lost.prompt_id, number=lost.number))
    await ended(proxy, waiting[1])
    await interrupt(proxy, blocker)
    await ended(proxy, *waiting)
