"""Prompts that move away from an instance that dies in that moment: each goes on, and runs once."""

from __future__ import annotations

import asyncio
from typing import Any

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
    until,
)

from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.errors import InstanceUnreachableError
from comfy_proxy.gateway.prompts.transfer import Transfer
from comfy_proxy.keys import CLUSTER, GATEWAY
from comfy_proxy.ledger import events
from comfy_proxy.ledger.prompt import Prompt


class Held:
    """The first prompt that is to be taken away waits for ``go`` before its instance is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = asyncio.Event()
        self.prompts: list[Prompt] = []
        take_away = Transfer.take_away

        async def held(transfer: Transfer, prompt: Prompt, busy: Any) -> bool:
            self.prompts.append(prompt)
            await self.go.wait()
            return await take_away(transfer, prompt, busy)

        monkeypatch.setattr(Transfer, "take_away", held)


async def test_one_that_stays_where_its_instance_has_died_goes_on(
    proxy: TestClient, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The death is found out while it is about to be moved; it stays in no queue at all."""
    ledger, held = proxy.app[GATEWAY].ledger, Held(monkeypatch)
    blocker, *waiting = await pile_up(proxy, workers, 3)
    await show(proxy, workers[1])
    await until(lambda: held.prompts)
    await workers[0].kill()
    instance = instance_of(proxy, workers[0])
    await until(lambda: ledger.at(instance) == held.prompts and not instance.healthy)
    for signs in (instance.on_circuit, instance.on_doubt, instance.on_interruption):
        signs.clear()  # no other sign of its death comes
    await until(lambda: not proxy.app[GATEWAY].failover._worker.busy)
    held.go.set()
    await until(lambda: held.prompts[0].prompt_id in workers[1].submitted)
    await interrupt(proxy, blocker)
    await ended(proxy, blocker, *waiting)
    await until(lambda: not ledger.live())


@pytest.mark.long
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


async def test_one_that_was_deleted_before_it_was_to_move_ends(
    proxy: TestClient, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its instance has nothing more to tell: the deletion was heard while nobody could judge it."""
    gateway, held = proxy.app[GATEWAY], Held(monkeypatch)
    blocker, *waiting = await pile_up(proxy, workers, 3)
    await show(proxy, workers[1])
    await until(lambda: held.prompts)
    async with proxy.post("/queue", json={"delete": waiting}) as answer:
        assert answer.status == 200
    instance = instance_of(proxy, workers[0])
    await until(lambda: instance.prompts.queue_remaining == 1)
    await until(lambda: len(gateway.ledger.at(instance)) == 2)
    await until(lambda: not gateway.reconciler._lookers.busy)
    held.go.set()
    await until(lambda: held.prompts[0].ended)
    await interrupt(proxy, blocker)
    await ended(proxy, blocker)
