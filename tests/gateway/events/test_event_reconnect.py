"""Sockets come and go on both sides; no two of a clientId ever overlap at an instance.

PROTOCOL.md trap 2 says why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from events_harness import (
    FLAGS,
    Listener,
    ScriptedInstance,
    colour,
    hears,
    listen,
    listen_itself,
    post,
    until,
)

from comfy_proxy.gateway.events import clients, shared_sockets, upstream_socket
from comfy_proxy.gateway.events.frames import status_frame
from comfy_proxy.keys import CLUSTER, GATEWAY

Instances = list[tuple[str, ScriptedInstance]]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first attempt to connect again comes at once."""
    monkeypatch.setattr(upstream_socket, "_FIRST_BACKOFF_S", 0.01)


def sessions(front: Any) -> Any:
    return front.app[GATEWAY].events


# --- the instance's side -------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["dropped", "closed"])
async def test_a_lost_socket_is_replaced_without_a_dip(
    front: Any, one: ScriptedInstance, way: str
) -> None:
    """The client is told nothing; its feature flags are sent first again."""
    client = await listen_itself(front, "me")
    await client.ws.send_str(FLAGS)
    wire = await one.wire()
    assert await wire.next() == FLAGS
    await wire.say("feature_flags", a=1)
    await client.until_type("feature_flags")
    await wire.status(2)
    await client.until_sum(2)
    one.greeting = [status_frame(2, "me")]
    if way == "dropped":
        wire.drop()
    else:
        await wire.ws.close(code=1001)
    again = await one.wire()
    assert await again.next() == FLAGS
    await again.say("feature_flags", a=1)
    await again.say("marker")
    await client.until_type("marker")
    kinds = [frame["type"] for frame in client.texts]
    assert kinds == ["status", "feature_flags", "status", "marker"]
    assert client.sums == [0, 2]
    assert "sid" not in client.texts[2]["data"]
    assert again.request.query["clientId"] == "me"


async def test_what_ran_before_a_restart_is_forgotten(front: Any, one: ScriptedInstance) -> None:
    """Pictures of strangers do not pass as those of a prompt that died with the instance."""
    client = await listen_itself(front, "me")
    wire = await one.wire()
    await wire.say("execution_start", prompt_id="p")
    await client.until_type("execution_start")
    wire.drop()
    again = await one.wire()
    await again.ws.send_bytes(b"\0\0\0\1\0\0\0\2stranger")
    await again.say("executing", node="2")
    await again.ws.send_bytes(b"\0\0\0\1\0\0\0\2mine")
    await until_binary(client, b"mine")
    assert len(client.binaries) == 1


async def until_binary(client: Listener, end: bytes) -> None:
    await client.until(lambda frame: isinstance(frame, bytes) and frame.endswith(end))


async def test_an_instance_that_stays_away_takes_nothing_from_the_sum(
    workers: Any, start_proxy: Callable[..., Any]
) -> None:
    """What waited there waits elsewhere; when it is back, its prompts are heard again."""
    front = await start_proxy(*workers)
    client = await listen(front, "me")
    for number in range(4):
        await post(front, colour(number, seconds=30), "me")
    await client.until_sum(4)
    told = len(client.sums)
    await workers[1].kill()
    await until(lambda: workers[0].queue_remaining == 4)
    await client.until_sum(4)  # as soon as it cannot be reached again
    assert min(client.sums[told:]) == 4
    async with front.post("/queue", json={"clear": True}):
        await client.until_sum(1)
    async with front.post("/interrupt"):
        await client.until_sum(0)
    await workers[1].restart()
    await until(lambda: all(worker.open_sockets for worker in workers))
    for worker in workers:
        worker.journal.started.clear()
    ids = [await post(front, colour(50 + n, seconds=0.05), "me") for n in range(4)]
    for prompt_id in ids:  # the interrupted one may be told as over only now, after the sum
        if not any(f["data"].get("node", "") is None for f in client.of_prompt(prompt_id)):
            await client.until_end_of(prompt_id)
    assert {f["data"]["prompt_id"] for f in client.texts if f["type"] == "executing"} >= set(ids)


async def test_an_instance_that_ends_sockets_at_once_is_no_connection(
    front: Any, one: ScriptedInstance, two: ScriptedInstance
) -> None:
    """The client works with the other one, and is asked to wait by none."""
    cluster = front.app[CLUSTER]

    async def refuse(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        ws = aiohttp.web.WebSocketResponse()
        await ws.prepare(request)
        await ws.close(code=1011)
        return ws

    one.handler = refuse  # type: ignore[method-assign]
    client = await listen(front, "me")
    assert sessions(front).shared.get(cluster.instances[1]).is_connected
    wire = await two.shared_wire()
    await wire.status(1)
    await client.until_sum(1)


async def test_one_that_is_down_joins_later(workers: Any, start_proxy: Callable[..., Any]) -> None:
    """Without a word to the client but a status; a check that succeeds wakes it at once."""
    front = await start_proxy(*workers)
    await workers[1].kill()
    client = await listen(front, "me")
    await hears(client, front, "me", 1)
    await workers[1].restart()
    cluster = front.app[CLUSTER]
    upstream = sessions(front).shared.get(cluster.instances[1])
    await cluster.health_checker.check(cluster.instances[1])
    await until(lambda: upstream.is_connected)
    await workers[0].kill()
    await hears(client, front, "me", 2)


async def test_a_slow_handshake_is_neither_repeated_nor_waited_for(
    front: Any, one: ScriptedInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instance whose loop stands still (PROTOCOL.md trap 8) joins when it goes on; the
    other serves."""
    monkeypatch.setattr(clients, "READY_TIMEOUT_S", 0.02)
    one.gate.clear()
    client = await listen_itself(front, "me")
    assert one.dialled == 1
    await client.ws.close()
    client = await listen_itself(front, "me")
    assert one.dialled == 1
    one.gate.set()
    await until(lambda: one.dialled == 2 and one.open == 1)
    await one.wire()
    wire = await one.wire()
    await wire.status(4)
    await client.until_sum(4)
    assert one.most_open == 1


async def test_nobody_waits_for_an_instance_that_another_one_has_joined_without(
    front: Any, one: ScriptedInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first client waits a moment for it, those that come later not at all."""
    monkeypatch.setattr(shared_sockets, "JOIN_TIMEOUT_S", 0.02)
    one.shared_gate.clear()
    await listen(front, "first")
    monkeypatch.setattr(shared_sockets, "JOIN_TIMEOUT_S", 3600.0)
    client = await listen(front, "second")
    one.shared_gate.set()
    await (await one.shared_wire()).status(1)
    await client.until_sum(1)


# --- the client's side ---------------------------------------------------------------------------


async def test_at_no_time_has_an_instance_two_sockets_of_one_id(
    front: Any, one: ScriptedInstance, two: ScriptedInstance
) -> None:
    """Connects at the same moment, ends in between: one after the other, confirmed."""

    async def visit(number: int) -> None:
        client = await listen_itself(front, "me")
        if number % 2:
            await client.ws.close()

    await asyncio.gather(*(visit(number) for number in range(8)))
    last = await listen_itself(front, "me")
    await until(lambda: one.open == two.open == 1)
    assert one.most_open == two.most_open == 1
    wire = await one.wire()
    while wire.ended.is_set():
        wire = await one.wire()
    await wire.status(3)
    await last.until_sum(3)


async def test_a_newer_socket_that_comes_to_nothing_leaves_the_old_one_hearing(
    front: Any, instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all instances out of reach for a moment the page needs no reload."""
    old = await listen_itself(front, "me")
    monkeypatch.setattr(shared_sockets, "CONNECT_TIMEOUT_S", 0.05)
    one = instances[0][1]
    wires = [await instance.wire() for _, instance in instances]
    shared = sessions(front).shared
    for _, instance in instances:
        instance.shared_gate.clear()
        (await instance.shared_wire()).drop()
    cluster = front.app[CLUSTER]
    await until(lambda: not any(shared.get(at).is_connected for at in cluster.instances))
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await front.ws_connect("/ws?clientId=me")
    assert caught.value.status == 503
    for _, instance in instances:
        instance.shared_gate.set()
    await wires[0].status(2)
    await old.until_sum(2)
    assert one.most_open == 1
    await old.ws.close()
    await until(lambda: len(sessions(front)) == 0)


async def test_a_client_that_leaves_during_the_handshake_leaves_nothing(
    front: Any, instances: Instances
) -> None:
    """Cancelled while it waits for the instances: its record ends, and the next one is served."""
    for _, instance in instances:
        instance.shared_gate.clear()
    waiting = asyncio.create_task(front.ws_connect("/ws?clientId=me"))
    for _, instance in instances:
        await instance.shared_asked.wait()
    waiting.cancel()
    await asyncio.wait([waiting])
    await until(lambda: len(sessions(front)) == 0)
    for _, instance in instances:
        instance.shared_gate.set()
    await listen(front, "me")
    assert len(sessions(front)) == 1


async def test_a_prompt_waits_for_the_socket_that_is_on_its_way(
    front: Any, one: ScriptedInstance
) -> None:
    """So that not even a cached prompt ends unheard (PROTOCOL.md trap 1); not for ever, and
    nobody's not."""
    gateway, instance = front.app[GATEWAY], front.app[CLUSTER].instances[0]
    one.gate.clear()
    await listen(front, "me")
    await gateway.clients.ready("stranger", instance)
    ready = asyncio.create_task(gateway.clients.ready("me", instance))
    await one.asked.wait()
    assert not ready.done()
    one.gate.set()
    await ready
    assert sessions(front)._sessions["me"].own.upstreams.get(instance).is_connected


async def test_a_new_socket_waits_for_the_confirmed_end_of_the_old_one(
    front: Any, one: ScriptedInstance
) -> None:
    """Else the old one's end would take the new one's entry along (PROTOCOL.md trap 2)."""
    await listen_itself(front, "me")
    one.end.clear()
    await listen(front, "me")
    assert one.dialled == 1
    one.end.set()
    await until(lambda: one.dialled == 2)
    assert one.most_open == 1
