"""``queue_remaining`` over all instances is never too low, and never too high for long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from events_harness import (
    ScriptedInstance,
    checked,
    colour,
    has_its_own,
    listen,
    listen_itself,
    post,
    until,
    upstreams_to,
)
from ledger_front import client_post

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.events import upstream_socket
from comfy_proxy.gateway.events.frames import status_frame
from comfy_proxy.gateway.gateway import Gateway
from comfy_proxy.gateway.prompts.lost_prompts import LostPrompts
from comfy_proxy.keys import CLUSTER, GATEWAY
from comfy_proxy.ledger import events
from comfy_proxy.ledger.prompt import End, JobRef, Prompt
from comfy_proxy.ledger.states import Ending

Instances = list[tuple[str, ScriptedInstance]]
Workers = Any
Start = Callable[..., Any]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts to connect again follow one another quickly."""
    monkeypatch.setattr(upstream_socket, "_FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(upstream_socket, "_LONGEST_BACKOFF_S", 0.02)


async def test_an_accepted_prompt_is_in_the_sum_before_its_frame(
    front: Any, instances: Instances
) -> None:
    """The 200 may overtake the frame; another instance's frame in between must not say 0: a
    client that ends there would look for its prompt in vain (PROTOCOL.md trap 13).
    """
    gateway, (first, _) = front.app[GATEWAY], front.app[CLUSTER].instances
    client = await listen(front, "me")
    one, two = await instances[0][1].shared_wire(), await instances[1][1].shared_wire()
    assert (await counted(gateway, first, _answer(200))).status == 200
    await two.status(1)
    await client.until_sum(2)
    await two.status(0)
    await client.until_sum(1)
    await one.status(1)
    await client.until_sum(1)
    await one.status(0)
    await client.until_sum(0)
    assert client.sums == [0, 2, 1, 1, 0]


async def test_a_frame_that_comes_before_the_200_is_not_counted_twice(
    front: Any, instances: Instances
) -> None:
    """As it usually is."""
    gateway, (first, _) = front.app[GATEWAY], front.app[CLUSTER].instances
    client = await listen(front, "me")
    wire = await instances[0][1].shared_wire()

    async def answering() -> Any:
        await wire.status(1)
        await client.until_sum(1)
        return await _answer(200)

    await counted(gateway, first, answering())
    await wire.status(0)
    await client.until_sum(0)
    assert client.sums == [0, 1, 0]


async def test_a_frame_that_tells_of_something_else_does_not_end_it(
    front: Any, instances: Instances
) -> None:
    """Another prompt ended there while this one was on its way."""
    gateway, (first, _) = front.app[GATEWAY], front.app[CLUSTER].instances
    client = await listen(front, "me")
    one, two = await instances[0][1].shared_wire(), await instances[1][1].shared_wire()
    await one.status(1)
    await client.until_sum(1)

    async def answering() -> Any:
        await one.status(0)
        await client.until_type("status")
        return await _answer(200)

    await counted(gateway, first, answering())
    await two.status(0)
    await client.until_type("status")
    assert client.sums == [0, 1, 1, 1]


@pytest.mark.parametrize("end", ["400", "error"])
async def test_a_refused_prompt_leaves_the_sum_again(
    front: Any, instances: Instances, end: str
) -> None:
    """Also if a sum with it was told meanwhile: no frame of the instance would ever mend it."""
    gateway, (first, _) = front.app[GATEWAY], front.app[CLUSTER].instances
    client = await listen(front, "me")
    two = await instances[1][1].shared_wire()

    async def answering() -> Any:
        await two.status(0)
        await client.until_sum(1)
        if end == "error":
            raise ConnectionError
        return await _answer(400)

    try:
        await counted(gateway, first, answering())
    except ConnectionError:
        assert end == "error"
    await client.until_sum(0)
    assert client.sums == [0, 1, 0]


async def _answer(status: int) -> Any:
    return aiohttp.web.Response(status=status)


async def counted(gateway: Gateway, instance: Instance, answering: Awaitable[Any]) -> Any:
    """The answer to a new prompt, for the sums alone: the prompt is followed no further."""
    prompt, taken = Prompt(prompt_id="p", post=client_post()), False
    gateway.ledger.apply(events.Received(prompt=prompt))
    gateway.ledger.apply(events.Sent(prompt=prompt, instance=instance))
    try:
        answer = await answering
        taken = answer.status == 200
        return answer
    finally:
        if not taken:
            gateway.ledger.apply(events.Refused(prompt=prompt, instance=instance))
        end = End(ending=Ending.VANISHED)
        gateway.ledger.apply(events.Finished(prompt=prompt, end=end))


async def test_an_instance_that_dies_with_an_untold_prompt_leaves_the_sum(
    workers: Workers, start_proxy: Start
) -> None:
    """It took the prompt and was gone before it could tell: the client must not wait for ever."""
    front = await start_proxy(*workers)
    gateway, (first, _) = front.app[GATEWAY], front.app[CLUSTER].instances
    client = await listen(front, "me")
    await counted(gateway, first, _answer(200))
    gateway.events.corrections.status_changed()
    await client.until_sum(1)
    await workers[0].kill()
    await client.until_sum(0)


async def test_what_is_at_an_instance_that_is_away_stays_in_the_sum(
    workers: Workers, start_proxy: Start
) -> None:
    """As in ``/queue``, until it is known to have ended; here it is a job's prompt."""
    front = await start_proxy(*workers)
    gateway, (first, _) = front.app[GATEWAY], front.app[CLUSTER].instances
    prompt = Prompt(prompt_id="j", job=JobRef(job_id="1", job_type="upscale-image"))
    gateway.ledger.apply(events.Received(prompt=prompt))
    gateway.ledger.apply(events.Sent(prompt=prompt, instance=first))
    gateway.ledger.apply(events.Accepted(prompt=prompt, prompt_id="j", number=1))
    client = await listen(front, "me")
    await workers[0].kill()
    await client.until_sum(1)
    late = await listen(front, "late")
    assert late.sums == [1]
    gateway.ledger.apply(events.Finished(prompt=prompt, end=End(ending=Ending.LOST)))
    await client.until_sum(0)
    await late.until_sum(0)


async def test_prompts_that_go_on_elsewhere_never_leave_the_sum(
    workers: Workers, start_proxy: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not while it is unknown what became of their instance, and they are never counted twice: a
    sum of 0 before their history would end the client's wait (PROTOCOL.md trap 13).
    """
    known = asyncio.Event()

    async def find_lost(self: LostPrompts, instance: Instance) -> None:
        await known.wait()
        await find_now(self, instance)

    find_now = LostPrompts.settle
    monkeypatch.setattr(LostPrompts, "settle", find_lost)
    front = await start_proxy(*workers)
    instance = front.app[CLUSTER].instances[1]
    client = await listen(front, "me")
    ids = [await post(front, colour(n, seconds=0.5), "me") for n in range(4)]
    await client.until_sum(4)
    (upstream,) = upstreams_to(front, instance)
    await workers[1].kill()
    await until(lambda: upstream.failures > 3)
    known.set()
    for prompt_id in ids:
        if not any(f["type"] == "execution_success" for f in client.of_prompt(prompt_id)):
            await client.until_type("execution_success", prompt_id=prompt_id)
    await client.until_sum(0)
    left, filled = 4, False
    for frame in client.texts:
        left -= frame["type"] == "execution_success"
        if frame["type"] == "status":
            remaining = frame["data"]["status"]["exec_info"]["queue_remaining"]
            filled |= remaining == 4
            assert not filled or left <= remaining <= left + 1


async def test_what_waits_at_a_busy_instance_is_in_the_greeting(
    front: Any, instances: Instances
) -> None:
    """Its loop stands still (PROTOCOL.md trap 8) and it takes no socket yet: what it told
    last still holds."""
    await checked(front)
    one = instances[0][1]
    first = await listen(front, "first")
    wire = await one.shared_wire()
    await wire.status(3)
    await first.until_sum(3)
    one.shared_gate.clear()
    wire.drop()
    await wire.ended.wait()
    second = await listen(front, "second")
    assert second.sums == [3]
    one.greeting = [status_frame(1, "shared")]
    one.shared_gate.set()
    await second.until_sum(1)


@pytest.mark.parametrize("own", [False, True])
async def test_a_socket_lost_in_silence_keeps_the_sum_until_the_circuit_opens(
    front: Any, instances: Instances, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    """Busy is not dead: only a refusal, or the health checks, say that nothing waits there."""
    await checked(front)
    instance, one = front.app[CLUSTER].instances[0], instances[0][1]
    client = await listen(front, "me")
    shared = wire = await one.shared_wire()
    upstream = front.app[GATEWAY].events.shared.get(instance)
    if own:
        await has_its_own(front, "me")
        wire = await one.wire()
        (upstream,) = upstreams_to(front, instance)
        await shared.status(2)
    await wire.status(2)
    await client.until_sum(2)
    monkeypatch.setattr(upstream_socket, "DIAL_TIMEOUT_S", 0.02)
    one.gate.clear()
    one.shared_gate.clear()
    wire.drop()
    shared.drop()
    await until(lambda: upstream.failures > 3)
    two = instances[1][1]
    await (await (two.wire() if own else two.shared_wire())).say("marker")
    await client.until_type("marker")
    assert client.sums == [0, 2]
    for _ in range(3):
        instance.fault("silent")
    await client.until_sum(0)
    one.gate.set()
    one.shared_gate.set()


async def test_a_silent_instance_must_answer_before_the_next_handshake(
    front: Any, instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands still and has not seen the old socket's end: a handshake that it finds beside it
    would be undone by it, and the client deaf for good (PROTOCOL.md trap 2).
    """
    monkeypatch.setattr(upstream_socket, "CLOSE_TIMEOUT_S", 0.01)
    await checked(front)
    one = instances[0][1]
    client = await listen_itself(front, "me")
    await one.wire()
    one.end.clear()
    one.still.clear()
    await client.ws.close()
    await listen(front, "me")
    itself = asyncio.create_task(has_its_own(front, "me"))
    await until(lambda: one.questions == 1)
    assert one.dialled == 1
    one.end.set()
    one.still.set()
    await one.wire()
    assert (one.dialled, one.open) == (2, 1)
    await itself


async def test_an_unanswered_ping_is_such_a_silence(
    instances: Instances, start_proxy: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heartbeat gives the socket up; the instance may find that out much later."""
    monkeypatch.setattr(upstream_socket, "HEARTBEAT_S", 0.05)
    one = instances[0][1]
    one.answers_pings = False
    front = await start_proxy(*(url for url, _ in instances))
    await checked(front)
    one.still.clear()
    await listen_itself(front, "me")
    await until(lambda: one.questions)  # of either socket there
    assert one.dialled == 1
    one.still.set()
    await until(lambda: one.dialled > 1)
