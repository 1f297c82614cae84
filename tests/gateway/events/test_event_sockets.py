"""One client socket over all instances is what ComfyUI's own would be."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType
from events_harness import (
    FLAGS,
    ScriptedInstance,
    has_its_own,
    listen,
    listen_itself,
    scripted,
    until,
)
from ledger_front import accepted

from comfy_proxy.gateway.events import outbox, outbox_sum, shared_sockets
from comfy_proxy.gateway.events import session as event_session
from comfy_proxy.keys import CLUSTER, GATEWAY
from comfy_proxy.ledger.events import MoveBegan, Stayed

Instances = list[tuple[str, ScriptedInstance]]
PNG = struct.pack(">II", 1, 2)


def sessions(front: Any) -> Any:
    return front.app[GATEWAY].events


@pytest.mark.parametrize("path", ["/ws", "/api/ws"])
@pytest.mark.parametrize("client_id", ["mine", "", None])
async def test_the_greeting_has_the_sum_and_the_sid(
    front: Any,
    one: ScriptedInstance,
    two: ScriptedInstance,
    path: str,
    client_id: str | None,
) -> None:
    """One ``status`` and nothing else; sockets of its own have its clientId and parameters."""
    one.greeting = [json.dumps({"type": "status", "data": _queue(2) | {"sid": "x"}})]
    two.greeting = [json.dumps({"type": "status", "data": _queue(3) | {"sid": "y"}})]
    client = await listen(front, client_id, f"{path}?token=t")
    (greeting,) = client.frames
    sid = greeting["data"].pop("sid")
    assert sid == client_id or (not client_id and len(sid) == 32)
    assert greeting == {"type": "status", "data": _queue(5)}
    await has_its_own(front, sid)
    for wire in (await one.wire(), await two.wire()):
        assert dict(wire.request.query) == {"clientId": sid, "token": "t"}


async def test_the_token_of_a_socket_stays_here(
    instances: Instances, start_proxy: Callable[..., Any], one: Any, two: Any
) -> None:
    """A key in the query opens the client's socket and goes to no instance; other tokens do."""
    front = await start_proxy(*(url for url, _ in instances), api_keys=("s3cret&key",))
    client = await listen_itself(front, "me", "/ws?token=s3cret%26key&token=other&a=1")
    for wire in (await one.wire(), await two.wire()):
        assert list(wire.request.query.items()) == [
            ("token", "other"),
            ("a", "1"),
            ("clientId", "me"),
        ]
        assert "s3cret" not in str(wire.request.headers)
    await client.ws.close()


def _queue(remaining: int) -> dict[str, Any]:
    return {"status": {"exec_info": {"queue_remaining": remaining}}}


@pytest.mark.parametrize("own", [False, True])
async def test_every_status_is_the_sum(front: Any, one: Any, two: Any, own: bool) -> None:
    """Each change of either queue is told once, without a sid, whichever sockets tell it."""
    client = await listen(front, "me")
    first, second = await one.shared_wire(), await two.shared_wire()
    if own:
        await has_its_own(front, "me")
        await first.status(7)
        first, second = await one.wire(), await two.wire()
    for wire, remaining, total in ((first, 2, 2), (second, 1, 3), (first, 1, 2), (second, 0, 1)):
        await wire.status(remaining)
        assert (await client.until_sum(total))["data"].keys() == {"status"}
    assert client.sums == [0, 2, 3, 2, 1]


async def test_a_prompt_on_its_way_is_part_of_the_sum(front: Any, one: Any, two: Any) -> None:
    """It counts as long as neither instance shows it."""
    client = await listen(front, "me")
    first, second = await one.shared_wire(), await two.shared_wire()
    await first.status(2)
    await client.until_sum(2)
    ledger, (instance, _) = front.app[GATEWAY].ledger, front.app[CLUSTER].instances
    prompt = accepted(ledger, "p", instance)
    ledger.apply(MoveBegan(prompt=prompt, queue_entry=[0, "p", {}, {}, []]))
    await first.status(1)
    await client.until_type("status")
    await second.status(1)
    await client.until_sum(3)
    ledger.apply(Stayed(prompt=prompt))
    await client.until_sum(2)
    assert min(client.sums[1:]) == 2


async def test_feature_flags_go_first_and_are_answered_once(front: Any, one: Any, two: Any) -> None:
    """Garbage before them does not count, as in ComfyUI; what comes after is forwarded too."""
    client = await listen_itself(front, "me")
    wires = await one.wire(), await two.wire()
    for data in ("no json", "[" * 100_000, "[1]"):
        await client.ws.send_str(data)
    await client.ws.send_bytes(b"binary")
    await client.ws.send_str(FLAGS)
    await client.ws.send_str('{"type": "later"}')
    for wire in wires:
        heard = [await wire.next() for _ in range(6)]
        assert heard[-2:] == [FLAGS, '{"type": "later"}']
        await wire.say("feature_flags", a=1)
        await wire.say("marker")
    await client.until_type("marker")
    await client.until_type("marker")
    assert [f["type"] for f in client.texts].count("feature_flags") == 1


async def test_frames_arrive_as_they_are_and_in_order(front: Any, one: Any, two: Any) -> None:
    """Text and binary, 20 MB too (PROTOCOL.md trap 23), odd ones too."""
    client = await listen_itself(front, "me")
    wire = await one.wire()
    large = PNG + bytes(range(256)) * 80_000
    await wire.say("execution_start", prompt_id="p")
    await wire.ws.send_str('{"type":"odd","data":[1,NaN]}')
    await wire.ws.send_bytes(large)
    await wire.say("end")
    await client.until(lambda frame: isinstance(frame, dict) and frame["type"] == "end")
    assert [f if isinstance(f, bytes) else f["type"] for f in client.frames] == [
        "status",
        "execution_start",
        "odd",
        large,
        "end",
    ]


async def test_the_clients_close_code_reaches_the_instances(front: Any, one: Any) -> None:
    """As if it had closed the instance's socket itself."""
    client = await listen_itself(front, "me")
    wire = await one.wire()
    await client.ws.close(code=4001, message=b"enough")
    async with asyncio.timeout(10):
        await wire.ended.wait()
    assert wire.ws.close_code == 4001
    await until(lambda: len(sessions(front)) == 0)


@pytest.mark.parametrize("kind", ["huge", "not utf-8", "reserved bits"])
async def test_a_client_that_breaks_the_protocol_is_closed(front: Any, one: Any, kind: str) -> None:
    """With ComfyUI's own codes; nothing of it stays behind."""
    client = await listen_itself(front, "me")
    await one.wire()
    too_large = b"\x81\xff" + (4 * 2**20 + 1).to_bytes(8) + bytes(4)
    sent = {"huge": too_large, "not utf-8": b"\x81\x81\0\0\0\0\xff", "reserved bits": b"\xf1\x80"}
    codes = {"huge": 1009, "not utf-8": 1007, "reserved bits": 1002}
    client.ws._writer.transport.write(sent[kind])
    assert await client.until_closed() == codes[kind]
    await until(lambda: len(sessions(front)) == 0 and one.open == 0)


async def test_a_ping_is_answered(front: Any) -> None:
    """With its payload, by us."""
    client = await listen(front, "me", autoping=False)
    await client.ws.ping(b"are you there")
    message = await client.ws.receive()
    assert (message.type, message.data) == (WSMsgType.PONG, b"are you there")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/ws", "/api/ws"])
async def test_without_an_upgrade_the_answer_is_the_instances(
    workers: Any, start_proxy: Callable[..., Any], method: str, path: str
) -> None:
    """Status and body as from ComfyUI directly."""
    front = await start_proxy(*workers)
    async with aiohttp.ClientSession() as http:
        async with http.request(method, workers[0].url + path) as response:
            direct = response.status, await response.read()
        async with front.request(method, path) as response:
            assert (response.status, await response.read()) == direct


async def test_without_any_instance_it_is_503(start_proxy: Callable[..., Any]) -> None:
    """And no trace of the client stays."""
    async with scripted() as pair:
        urls = [url for url, _ in pair]
    front = await start_proxy(*urls)
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await front.ws_connect("/ws?clientId=a")
    assert caught.value.status == 503
    assert caught.value.headers is not None
    assert caught.value.headers["Retry-After"] == "5"
    await until(lambda: len(sessions(front)) == 0)


async def test_a_slow_client_is_disconnected_and_delays_nobody(
    front: Any, one: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its previews go first; it is closed with 1013; all that it was sent comes before that."""
    monkeypatch.setattr(outbox, "MAX_BYTES", 4 * 2**20)
    monkeypatch.setattr(outbox, "PREVIEW_BYTES", 2**20)
    slow, quick = await listen_itself(front, "slow"), await listen_itself(front, "quick")
    wires = {}
    for _ in range(2):
        wire = await one.wire()
        wires[wire.request.query["clientId"]] = wire
    slow.ws._conn.protocol.pause_reading()
    await wires["slow"].say("execution_start", prompt_id="p")
    await wires["quick"].say("execution_start", prompt_id="q")
    chunk = bytes(2**20)
    for _ in range(30):
        await wires["slow"].ws.send_bytes(struct.pack(">II", 1, 1) + chunk)
        await wires["slow"].ws.send_bytes(PNG + chunk)
        await wires["quick"].ws.send_bytes(PNG)
    await quick.until(lambda _frame: len(quick.binaries) == 30)
    slow.ws._conn.protocol.resume_reading()
    assert await slow.until_closed() == 1013
    assert 0 < len(slow.binaries) < 30
    await until(lambda: one.open == 1)


async def test_a_client_that_does_not_read_at_all_is_cut_off(
    front: Any, one: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it stays behind, though it never takes the close frame."""
    monkeypatch.setattr(outbox, "MAX_BYTES", 4 * 2**20)
    monkeypatch.setattr(event_session, "DRAIN_TIMEOUT_S", 0.05)
    slow = await listen_itself(front, "slow")
    wire = await one.wire()
    slow.ws._conn.protocol.pause_reading()
    await wire.say("execution_start", prompt_id="p")
    chunk = PNG + bytes(2**20)
    for _ in range(20):
        with suppress(ConnectionError):  # it may be gone by now
            await wire.ws.send_bytes(chunk)
    await until(lambda: len(sessions(front)) == 0 and one.open == 0)
    slow.ws._conn.protocol.resume_reading()


async def test_clients_that_do_not_read_go_and_the_others_stay(
    front: Any, one: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for all together is bounded; who reads gets everything."""
    monkeypatch.setattr(outbox_sum, "MAX_SUM_BYTES", 4 * 2**20)
    monkeypatch.setattr(event_session, "DRAIN_TIMEOUT_S", 0.05)
    slow = [await listen_itself(front, name) for name in "abc"]
    quick = await listen_itself(front, "quick")
    wires = {}
    for _ in range(4):
        wire = await one.wire()
        wires[wire.request.query["clientId"]] = wire
    for client in slow:
        client.ws._conn.protocol.pause_reading()
    for name, wire in wires.items():
        await wire.say("execution_start", prompt_id=name)
    read = asyncio.create_task(quick.until(lambda _frame: len(quick.binaries) == 12))
    for _ in range(12):
        for wire in wires.values():
            with suppress(ConnectionError):  # that one is gone by now
                await wire.ws.send_bytes(PNG + bytes(2**20))
    await read
    await until(lambda: len(sessions(front)) == 1)
    for client in slow:
        client.ws._conn.protocol.resume_reading()


async def test_the_proxy_stops_with_1001(
    instances: Instances, start_proxy: Callable[..., Any]
) -> None:
    """Whoever is connected is told, deaf ones too; no task and no socket stays."""
    before = asyncio.all_tasks()
    front = await start_proxy(*(url for url, _ in instances))
    clients = [await listen_itself(front, name) for name in ("a", "b", "a")]
    codes = [asyncio.create_task(client.until_closed()) for client in clients]
    await front.server.close()
    assert [await code for code in codes] == [1001, 1001, 1001]
    await until(lambda: not any(instance.open for _, instance in instances))
    names = {task.get_name() for task in asyncio.all_tasks() - before}
    assert not any("events of" in name or "of a" in name for name in names)


async def test_a_stop_does_not_wait_for_a_handshake(
    instances: Instances, start_proxy: Callable[..., Any]
) -> None:
    """Neither for one that a client waits for nor for one in the background."""
    front = await start_proxy(*(url for url, _ in instances))
    for _, instance in instances:
        instance.shared_gate.clear()
    waiting = asyncio.create_task(front.ws_connect("/ws?clientId=a"))
    for _, instance in instances:
        await instance.shared_asked.wait()
    async with asyncio.timeout(shared_sockets.CONNECT_TIMEOUT_S / 2):
        await front.server.close()
    for _, instance in instances:
        instance.shared_gate.set()
    with pytest.raises(aiohttp.ClientError):
        await waiting


async def test_an_end_that_a_new_socket_tells_first_of_all_is_told_once(
    instances: Instances, front: Any, one: ScriptedInstance
) -> None:
    """Its history was read while the old socket was broken or silent: that entry waits for the
    frame, and is not given on top of it."""
    client = await listen_itself(front, "me")
    wire = await one.wire()
    cluster = front.app[CLUSTER]
    instance = cluster.instances[0]
    prompt = accepted(front.app[GATEWAY].ledger, "p", instance, "me")
    entry = {"status": {"messages": [["execution_success", {"prompt_id": "p"}]]}, "outputs": {}}
    front.app[GATEWAY].clients.end_learnt(prompt, entry, instance)
    await wire.say("execution_success", prompt_id="p")
    await client.until_type("execution_success")
    [session] = sessions(front)._sessions.values()
    assert session.told.of("p").ended


async def test_interrupts_are_told_once_and_those_of_nobody_to_everybody(
    front: Any, one: ScriptedInstance
) -> None:
    """What is the client's own is kept in mind, also if its socket has heard nothing before."""
    client = await listen_itself(front, "me")
    wire = await one.wire()
    accepted(front.app[GATEWAY].ledger, "p", front.app[CLUSTER].instances[0], "me")
    for prompt_id in ("p", "nobodys"):
        await wire.say("execution_interrupted", prompt_id=prompt_id)
        await client.until_type("execution_interrupted", prompt_id=prompt_id)
    [session] = sessions(front)._sessions.values()
    assert session.told.of("p").ended
    assert not session.told.knows("nobodys")
