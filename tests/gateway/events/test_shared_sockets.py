"""One socket of the proxy's own at each instance tells all clients that need none of their own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from events_harness import (
    FLAGS,
    Json,
    Listener,
    ScriptedInstance,
    checked,
    colour,
    has_its_own,
    hears,
    listen,
    post,
    until,
    upstreams_to,
)
from ledger_front import accepted

from comfy_proxy.gateway.events import shared_sockets, upstream_socket
from comfy_proxy.gateway.events.client_feed import ClientFeed
from comfy_proxy.gateway.events.frames import Pass
from comfy_proxy.keys import CLUSTER, GATEWAY

Instances = list[tuple[str, ScriptedInstance]]
Start = Callable[..., Any]
LOOKERS = 200


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts to connect again follow one another quickly."""
    monkeypatch.setattr(upstream_socket, "_FIRST_BACKOFF_S", 0.01)


def is_type(kind: str) -> Callable[[Any], bool]:
    return lambda frame: isinstance(frame, dict) and frame["type"] == kind


# --- how many sockets there are -----------------------------------------------------------------


@pytest.mark.long
async def test_clients_that_only_look_need_one_socket_an_instance(
    workers: Any, start_proxy: Start
) -> None:
    """Two for 200 clients and two instances. None has a task of ours, or hears less for it."""
    front = await start_proxy(*workers)
    first = await listen(front, "first")
    await checked(front)
    before = len(asyncio.all_tasks())
    unlimited = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(front.make_url("/"), connector=unlimited) as http:
        clients = [await listen(http, f"looks {number}") for number in range(LOOKERS - 1)]
        assert [worker.open_sockets for worker in workers] == [1, 1]
        of_aiohttp = 2  # one for the connection, one for the request
        assert len(asyncio.all_tasks()) - before <= of_aiohttp * len(clients)
        await post(front, colour(1))
        for client in (first, *clients):
            await client.until_sum(1)
            await client.until_sum(0)


async def test_a_client_gets_its_own_socket_where_its_prompt_goes(
    workers: Any, start_proxy: Start
) -> None:
    """There alone, and it keeps it until it leaves; nobody else gets one."""
    front = await start_proxy(*workers)
    client, _ = await listen(front, "me"), await listen(front, "other")
    first, second = front.app[CLUSTER].instances
    second.draining = 1
    await hears(client, front, "me", 1)
    (upstream,) = upstreams_to(front, first)
    assert upstream.is_connected
    assert upstreams_to(front, second) == []
    await hears(client, front, "me", 2)
    assert upstreams_to(front, first) == [upstream]
    second.draining = 0
    await client.ws.close()
    await until(lambda: upstreams_to(front, first) == [])


async def test_the_shared_sockets_are_nobodys(front: Any, instances: Instances) -> None:
    """Each has a clientId of its own that no other socket ever had, and nothing of a client."""
    await listen(front, "me", "/ws?token=t")
    wires = [await instance.shared_wire() for _, instance in instances]
    wires[0].drop()
    wires.append(await instances[0][1].shared_wire())
    ids = set()
    for wire in wires:
        assert list(wire.request.query) == ["clientId"]
        ids.add(wire.request.query["clientId"])
        assert "me" not in str(wire.request.headers)
    assert len(ids) == len(wires)
    assert all(len(one) == 32 for one in ids)


async def test_a_custom_route_is_answered_on_the_clients_own_socket(
    front: Any, one: ScriptedInstance, two: ScriptedInstance
) -> None:
    """It is there before the instance hears of the request; no other one is opened."""
    client = await listen(front, "client-me")
    for _ in range(2):
        async with front.post("/pack/ask", json={"clientId": "client-me"}) as answer:
            assert answer.status == 200
        assert one.open_at["/pack/ask"] == 1
    assert (one.dialled, two.dialled) == (1, 0)
    await (await one.wire()).say("pack-answer", n=1)
    await client.until_type("pack-answer")


async def test_a_message_for_custom_nodes_goes_to_all_instances(
    front: Any, one: ScriptedInstance, two: ScriptedInstance
) -> None:
    """Nobody knows where that node listens: the client has a socket at each from then on."""
    client = await listen(front, "me")
    for text in ('{"type": "mine", "data": 1}', '{"type": "mine", "data": 2}'):
        await client.ws.send_str(text)
    for instance in (one, two):
        wire = await instance.wire()
        assert [json.loads(await wire.next())["data"] for _ in range(2)] == [1, 2]
    assert (one.dialled, two.dialled) == (1, 1)


# --- what they tell -----------------------------------------------------------------------------


async def test_a_broadcast_is_one_object_for_all(
    front: Any, one: ScriptedInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read once, whoever looks on; each client gets it once and as it came."""
    put: list[Pass] = []
    put_now = ClientFeed.put

    def note(self: ClientFeed, frame: Pass) -> None:
        if "custom" in str(frame.data):
            put.append(frame)
        put_now(self, frame)

    monkeypatch.setattr(ClientFeed, "put", note)
    clients = [await listen(front, name) for name in "abc"]
    text = '{"type":"custom","data":{"b":1, "a":NaN}}'
    await (await one.shared_wire()).ws.send_str(text)
    for client in clients:
        message = await client.ws.receive()
        assert message.data == text
    assert len(put) == 3
    assert len({id(frame) for frame in put}) == 1


async def test_pictures_of_nobodys_prompt_are_told_to_nobody(
    front: Any, one: ScriptedInstance
) -> None:
    """ComfyUI sends them to every socket; what is told of their progress is told."""
    client = await listen(front, "me")
    wire = await one.shared_wire()
    await wire.ws.send_bytes(b"\0\0\0\1\0\0\0\2picture")
    metadata = json.dumps({"prompt_id": "p", "image_type": "image/png"}).encode()
    await wire.ws.send_bytes(b"\0\0\0\4" + len(metadata).to_bytes(4) + metadata + b"picture")
    await wire.say("progress", value=1, max=2, node="1", prompt_id="p")
    await client.until_type("progress")
    assert client.binaries == []


async def test_an_interrupt_of_nobodys_prompt_is_told_to_all_and_on_record(
    front: Any, one: ScriptedInstance
) -> None:
    """How a client's own prompt ends its own socket tells, and no other one."""
    client = await listen(front, "me")
    ledger, (instance, _) = front.app[GATEWAY].ledger, front.app[CLUSTER].instances
    nobodys = accepted(ledger, "nobodys", instance)
    mine = accepted(ledger, "mine", instance, "somebody")
    wire = await one.shared_wire()
    for prompt in (mine, nobodys):
        await wire.say("execution_interrupted", prompt_id=prompt.prompt_id)
        await client.until_type("execution_interrupted", prompt_id=prompt.prompt_id)
    assert nobodys.attempts[-1].end is not None
    assert mine.attempts[-1].end is None


async def test_feature_flags_are_answered_without_a_socket_of_its_own(
    front: Any, one: ScriptedInstance, two: ScriptedInstance
) -> None:
    """From what an instance has told the shared socket; a socket of its own begins with them."""
    client = await listen(front, "me")
    wire = await two.shared_wire()
    assert json.loads(await wire.next())["type"] == "feature_flags"
    await client.ws.send_str(FLAGS)
    await wire.say("feature_flags", assets=True, max_upload_size=7)
    told = await client.until_type("feature_flags")
    assert told["data"] == {"assets": True, "max_upload_size": 7}
    assert (one.dialled, two.dialled) == (0, 0)
    second = await listen(front, "second")
    await second.ws.send_str(FLAGS)
    assert (await second.until_type("feature_flags"))["data"]["assets"] is True
    await has_its_own(front, "me")
    for instance in (one, two):
        own = await instance.wire()
        assert await own.next() == FLAGS
        await own.say("feature_flags", assets=True)
        await own.say("marker")
        await client.until_type("marker")
    assert sum(map(is_type("feature_flags"), client.frames)) == 1


async def test_scans_are_told_once_whatever_sockets_a_client_has(
    front: Any, one: ScriptedInstance
) -> None:
    """ComfyUI tells every socket of them: the shared ones tell all clients."""
    clients = [await listen(front, name) for name in ("looks", "works")]
    await has_its_own(front, "works")
    for wire in (await one.wire(), await one.shared_wire()):
        await wire.say("assets.seed.started", phase="fast")
        await wire.status(1)
    for client in clients:
        await both_told(client)
        assert sum(map(is_type("assets.seed.started"), client.frames)) == 1


async def both_told(client: Listener) -> None:
    """The sum, which its own socket tells if it has one, and the scan, in any order."""
    scan = is_type("assets.seed.started")
    await client.until(lambda _frame: 1 in client.sums and any(map(scan, client.frames)))


async def test_a_silent_shared_socket_is_replaced(
    front: Any, one: ScriptedInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check has read another queue than it has told, and nothing comes on it."""
    monkeypatch.setattr(shared_sockets, "SILENCE_S", 0.01)
    client = await listen(front, "me")
    wire = await one.shared_wire()
    one.greeting = [json.dumps({"type": "status", "data": _queue(3)})]
    front.app[CLUSTER].instances[0].prompts.observed(3)
    await client.until_sum(3)
    await wire.ended.wait()
    assert await one.shared_wire() is not wire


def _queue(remaining: int) -> Json:
    return {"status": {"exec_info": {"queue_remaining": remaining}}}


async def test_who_comes_while_no_socket_is_there_does_not_wait_for_the_next_attempt(
    front: Any, instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All instances were away for a moment; attempts have become rare meanwhile."""
    monkeypatch.setattr(upstream_socket, "_FIRST_BACKOFF_S", 3600.0)
    await listen(front, "me")
    shared = front.app[GATEWAY].events.shared
    for _, instance in instances:
        (await instance.shared_wire()).drop()
    cluster = front.app[CLUSTER]
    await until(lambda: not any(shared.get(at).is_connected for at in cluster.instances))
    await listen(front, "later")


async def test_a_client_that_comes_while_its_prompt_is_sent_hears_it(
    front: Any, one: ScriptedInstance
) -> None:
    """Nobody listened when the instance was chosen; the prompt waited its turn since."""
    client = await listen(front, "me")
    ledger, (instance, _) = front.app[GATEWAY].ledger, front.app[CLUSTER].instances
    accepted(ledger, "p", instance, "me")
    wire = await one.wire()
    await wire.say("execution_start", prompt_id="p")
    await client.until_type("execution_start")


# --- from the shared socket to a client's own ----------------------------------------------------


async def test_the_change_to_its_own_socket_loses_nothing_and_doubles_nothing(
    front: Any, one: ScriptedInstance
) -> None:
    """Broadcasts come on both for a moment, in any order; a status of the shared one counts no
    longer."""
    client = await listen(front, "me")
    shared = await one.shared_wire()
    one.gate.clear()
    attending = asyncio.create_task(has_its_own(front, "me"))
    await one.asked.wait()
    for number in (1, 2):
        await shared.say("custom", n=number)
        await client.until_type("custom", n=number)
    one.gate.set()
    await attending
    own = await one.wire()
    await own.say("custom", n=2)  # both had it by then
    await own.say("custom", n=3)
    await client.until_type("custom", n=3)
    await shared.say("custom", n=4)  # it was sent before the own one was there, and comes late
    await client.until_type("custom", n=4)
    await shared.status(9)
    await shared.say("custom", n=3)
    await shared.say("custom", n=5)
    await client.until_type("custom", n=5)
    await own.status(1)
    await client.until_sum(1)
    assert client.sums == [0, 1]
    assert [f["data"]["n"] for f in client.texts if f["type"] == "custom"] == [1, 2, 3, 4, 5]


async def test_a_running_prompt_that_nobody_here_knows_is_heard(
    workers: Any, start_proxy: Start
) -> None:
    """As after a restart of the proxy without STATE_FILE: its client comes again, and hears the
    rest. So does one that was there before the prompt."""
    front = await start_proxy(*workers)
    early = await listen(front, "early")
    for client_id, number in (("early", 0), ("late", 1)):
        graph = colour(number, seconds=0.5)
        prompt_id = await post(front.session, graph, client_id, workers[number].url)
        client = early if client_id == "early" else await listen(front, client_id)
        await client.until_end_of(prompt_id)
        assert upstreams_to(front, front.app[CLUSTER].instances[number])


async def test_prompts_of_others_open_no_sockets(workers: Any, start_proxy: Start) -> None:
    """What comes past us is of whom the queue names, and of nobody else."""
    front = await start_proxy(*workers)
    client = await listen(front, "me")
    await post(front.session, colour(1, seconds=0.2), "stranger", workers[0].url)
    await client.until_sum(1)
    await client.until_sum(0)
    assert upstreams_to(front, front.app[CLUSTER].instances[0]) == []
