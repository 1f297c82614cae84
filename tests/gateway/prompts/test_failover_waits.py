"""A prompt that was lost waits for an instance as long as it takes; only refusals end it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from prompts_front import (
    LONG_S,
    Workers,
    ended,
    get,
    graph,
    instance_of,
    interrupt,
    pile_up,
    post,
    recover,
    show,
    until,
)

from comfy_proxy.dispatch.dispatcher import Dispatcher
from comfy_proxy.errors import InstanceUnreachableError
from comfy_proxy.gateway.prompts import lost_prompts, transfer, ways
from comfy_proxy.keys import CLUSTER, GATEWAY
from comfy_proxy.ledger.prompt import Prompt


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PAUSE_S", 0.001)


async def lost(proxy: TestClient, prompt_ids: list[str]) -> list[Prompt]:
    """These prompts, once they are in transit."""
    ledger = proxy.app[GATEWAY].ledger
    await until(lambda: all(ledger.transit.find(one) is not None for one in prompt_ids))
    return [ledger.transit.find(one) for one in prompt_ids]


async def test_instances_that_take_nothing_for_long_end_no_prompt(
    proxy: TestClient, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They answer checks, but no prompt reaches them, longer than it is offered in one go."""
    monkeypatch.setattr(transfer, "MAX_ROUNDS", 2)
    submit, offered, works = Dispatcher.submit, [], asyncio.Event()

    async def breaks(self: Dispatcher, *arguments: Any, **options: Any) -> Any:
        if works.is_set():
            return await submit(self, *arguments, **options)
        offered.append(arguments)
        raise InstanceUnreachableError("The way to it is broken.")

    prompt_ids = await pile_up(proxy, workers, 2)
    instance = proxy.app[CLUSTER].instances[0]
    await until(lambda: instance.prompts.queue_remaining == 2)
    monkeypatch.setattr(Dispatcher, "submit", breaks)
    await workers[0].kill()
    prompts: list[Any] = await lost(proxy, prompt_ids)
    await show(proxy, workers[1])
    await until(lambda: len(offered) >= 2)
    failover = proxy.app[GATEWAY].failover
    await until(lambda: not failover._worker.busy)
    assert not any(prompt.ended for prompt in prompts)
    works.set()
    await recover(proxy, workers[1])
    await until(lambda: workers[1].started[:1] == prompt_ids[:1])
    await interrupt(proxy, prompt_ids[0])
    await ended(proxy, *prompt_ids)
    assert (await get(proxy, "/metrics"))["prompts"]["failed"] == 0


async def test_one_that_every_instance_refuses_ends_with_its_reason(
    proxy: TestClient, workers: Workers
) -> None:
    """It is not offered for ever to those who will not have it."""
    prompt_ids = await pile_up(proxy, workers, 1)
    instance = proxy.app[CLUSTER].instances[0]
    await until(lambda: instance.prompts.queue_remaining == 1)
    await workers[0].kill()
    await lost(proxy, prompt_ids)
    await workers[0].restart()
    workers[0].faults.answers = {"/prompt": "400"}
    await recover(proxy, workers[0])
    entries = await ended(proxy, *prompt_ids)
    (message,) = entries[prompt_ids[0]]["status"]["messages"]
    assert message[0] == "execution_error"
    assert message[1]["exception_type"] == "PromptLostError"


async def test_an_instance_that_does_not_say_what_it_lost_makes_no_others_prompts_wait(
    proxy: TestClient, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked about its own prompts alone, for as long as that takes."""
    monkeypatch.setattr(lost_prompts, "ASK_TIMEOUT_S", 3600.0)
    prompt_ids = await pile_up(proxy, workers, 1)
    instance = instance_of(proxy, workers[0])
    await until(lambda: instance.prompts.queue_remaining == 1)
    await show(proxy, workers[1])
    running = await post(proxy, graph(LONG_S))
    await until(lambda: workers[1].started == [running])
    workers[1].faults.hang = ("/queue",)
    proxy.app[GATEWAY].failover.doubt(instance_of(proxy, workers[1]))
    await workers[0].kill()
    await until(lambda: workers[1].submitted == [running, *prompt_ids])
    assert proxy.app[GATEWAY].ledger.doubtful(instance_of(proxy, workers[1]))


async def test_an_instance_that_hangs_with_a_lost_prompt_in_hand_makes_no_others_wait(
    proxy: TestClient, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They pass it over, and it is sent nothing twice."""
    monkeypatch.setattr(ways, "HELD_UP_S", 0.05)
    submit, asked = Dispatcher.submit, []
    go_on = asyncio.Event()

    async def hangs(self: Dispatcher, order: Any, placement: Any, **options: Any) -> Any:
        if placement.instance is hung:
            asked.append(order.prompt.prompt_id)
            await go_on.wait()
        return await submit(self, order, placement, **options)

    prompt_ids = await pile_up(proxy, workers, 3)
    await until(lambda: instance_of(proxy, workers[0]).prompts.queue_remaining == 3)
    hung = instance_of(proxy, workers[1])
    monkeypatch.setattr(Dispatcher, "submit", hangs)
    await workers[0].kill()
    await lost(proxy, prompt_ids)
    await show(proxy, workers[1])
    await until(lambda: asked)
    await workers[0].restart()
    await recover(proxy, workers[0])
    await until(lambda: workers[0].submitted[-2:] == prompt_ids[1:])
    assert asked == prompt_ids[:1]
    go_on.set()
    await until(lambda: workers[1].submitted == prompt_ids[:1])
