"""An id is used a second time while its first prompt lives: each client hears of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from events_harness import Listener, colour, listen
from job_client import until
from ledger_front import accepted
from manual_clock import ManualClock
from yarl import URL

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.events import replaced_prompts
from comfy_proxy.gateway.events.replaced_prompts import ReplacedPrompts
from comfy_proxy.keys import GATEWAY
from comfy_proxy.ledger.ledger import Ledger


async def post_as(front: Any, prompt_id: str, client_id: str, number: int, seconds: float) -> None:
    graph = colour(number, "SaveImageWebsocket", seconds)
    body = {"prompt": graph, "prompt_id": prompt_id, "client_id": client_id}
    async with front.post("/prompt", json=body) as answer:
        assert answer.status == 200, await answer.text()


def told(client: Listener, prompt_id: str) -> tuple[int, int, int]:
    """How many starts, successes and last frames."""
    frames = client.of_prompt(prompt_id)
    kinds = [frame["type"] for frame in frames]
    over = [f for f in frames if f["type"] == "executing" and f["data"]["node"] is None]
    return kinds.count("execution_start"), kinds.count("execution_success"), len(over)


@pytest.mark.parametrize("instances", [1, 2])
async def test_another_clients_prompt_does_not_silence_the_first(
    workers: Any, start_proxy: Callable[..., Any], instances: int
) -> None:
    """Ids are seen in /queue: anybody may post under any. Wherever the second one runs."""
    second = workers[1]
    front = await start_proxy(*workers)
    if instances == 1:
        second.refuse_connections()
        second.drop_connections()
    a, b = await listen(front, "a"), await listen(front, "b")
    await post_as(front, "X", "a", 1, 0.6)
    await a.until_type("execution_start", prompt_id="X")
    await post_as(front, "X", "b", 2, 0.1)
    await asyncio.gather(a.until_end_of("X"), b.until_end_of("X"))
    assert (told(a, "X"), told(b, "X")) == ((1, 1, 1), (1, 1, 1))
    assert (len(a.binaries), len(b.binaries)) == (1, 1)
    ledger = front.app[GATEWAY].ledger
    await until(lambda: not ledger.live())
    assert "0" in repr(front.app[GATEWAY].events.replaced)


@pytest.mark.parametrize("instances", [1, 2])
async def test_one_client_hears_of_both_of_its_own(
    workers: Any, start_proxy: Callable[..., Any], instances: int
) -> None:
    """As ComfyUI tells them; and the second one is on record until it has ended itself."""
    front = await start_proxy(*workers)
    if instances == 1:
        workers[1].refuse_connections()
        workers[1].drop_connections()
    a = await listen(front, "a")
    ledger = front.app[GATEWAY].ledger
    await post_as(front, "X", "a", 1, 0.3)
    await a.until_type("execution_start", prompt_id="X")
    await post_as(front, "X", "a", 2, 0.3 if instances == 1 else 0.8)
    await a.until_end_of("X")
    assert ledger.find("X") is not None
    await a.until_end_of("X")
    assert told(a, "X") == (2, 2, 2)
    assert len(a.binaries) == 2
    await until(lambda: not ledger.live())


def test_few_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaced_prompts, "MAX_REPLACED", 2)
    clock = ManualClock()
    instance = Instance(id="1", url=URL("http://one:8188"), clock=clock)
    ledger, prompts = Ledger(clock), ReplacedPrompts()
    ledger.observers.append(prompts.observe)
    for name in ("1", "2", "3", "3"):
        accepted(ledger, name, instance, "c")
        accepted(ledger, name, instance, "d")
    left = [name for name in ("1", "2", "3") if prompts.has(name, "c", instance)]
    assert left == ["3"]
    prompts.over("3", "c", instance)
    assert prompts.has("3", "c", instance), "the client had two"
    prompts.over("3", "c", instance)
    assert not prompts.has("3", "c", instance)
    prompts.removed(instance)
    assert repr(prompts) == "<ReplacedPrompts 0>"
