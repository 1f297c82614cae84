"""Sockets that break off or cannot be made: how many strikes that is, and where prompts go."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from events_harness import (
    ScriptedInstance,
    checked,
    colour,
    hears,
    listen,
    listen_itself,
    post,
    until,
    upstreams_to,
)

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.events import upstream_socket
from comfy_proxy.keys import CLUSTER, GATEWAY
from comfy_proxy.metrics.records import Attempt, Verdict

Instances = list[tuple[str, ScriptedInstance]]
Workers = Any
Start = Callable[..., Any]
BROWSERS = 12


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts to connect again follow one another quickly."""
    monkeypatch.setattr(upstream_socket, "_FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(upstream_socket, "_LONGEST_BACKOFF_S", 0.02)


def faults_at(instance: Instance) -> Counter[str]:
    """How many exchanges of each kind fail from now on; ``ws`` are handshakes."""
    told: Counter[str] = Counter()

    def note(one: Attempt) -> None:
        told[one.kind] += one.verdict is Verdict.INSTANCE_FAULT

    instance.observers.append(note)
    return told


def strikes_of_sockets(instance: Instance, told: Counter[str]) -> int:
    """Other requests may have been under way when the instance went; each is a strike."""
    return instance.breaker.consecutive_failures - (told.total() - told["ws"])


# --- strikes -------------------------------------------------------------------------------------


@pytest.mark.long
async def test_a_blip_is_one_strike_however_many_browsers_are_open(
    workers: Workers, start_proxy: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred failed handshakes open no circuit; when the instance is back all hear again, and
    it counts as healthy at once.
    """
    monkeypatch.setattr("comfy_proxy.cluster.health_checker.DEMAND_INTERVAL_S", 60.0)
    front = await start_proxy(*workers)
    instance = front.app[CLUSTER].instances[0]
    clients = [await listen_itself(front, f"browser {number}") for number in range(BROWSERS)]
    await post(front, colour(1), "browser 0")  # the job pool listens too
    await checked(front)
    told = faults_at(instance)
    await workers[0].kill()
    await until(lambda: told["ws"] > 100)
    assert instance.failing
    assert strikes_of_sockets(instance, told) <= 1
    await workers[0].restart()
    await until(lambda: all(upstream.is_connected for upstream in upstreams_to(front, instance)))
    await until(lambda: not instance.failing)
    await workers[1].kill()
    for number, client in enumerate(clients[:3]):
        await hears(client, front, f"browser {number}", 10 + number)


async def test_a_killed_instance_is_noticed_without_any_request(
    workers: Workers, start_proxy: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By checks that the lost sockets ask for, long before the next of the period."""
    monkeypatch.setattr("comfy_proxy.cluster.health_checker.DEMAND_INTERVAL_S", 0.01)
    front = await start_proxy(*workers)
    instance = front.app[CLUSTER].instances[0]
    await listen(front, "me")
    await checked(front)
    await workers[0].kill()
    await until(lambda: not instance.healthy)


async def test_an_open_circuit_closes_soon_while_a_page_is_open(
    workers: Workers, start_proxy: Start
) -> None:
    """Nobody has to wait for the next check of the period: an open page asks every second."""
    front = await start_proxy(*workers)
    checker, instance = front.app[CLUSTER].health_checker, front.app[CLUSTER].instances[0]
    await listen(front, "me")
    await checked(front)
    await workers[0].kill()
    for _ in range(3):
        await checker.check(instance)
    assert not instance.healthy
    await workers[0].restart()
    await until(lambda: instance.healthy)


async def test_an_instance_without_sockets_is_checked_once(
    workers: Workers, start_proxy: Start
) -> None:
    """Its HTTP works: no strike, no storm of checks; the client's other instance serves it."""
    front = await start_proxy(*workers)
    cluster, instance = front.app[CLUSTER], front.app[CLUSTER].instances[0]
    await checked(front)
    passed: list[Instance] = []
    cluster.health_checker.on_success.append(passed.append)
    told = faults_at(instance)
    workers[0].faults.answers = {"/ws": "500"}
    for number in range(BROWSERS):
        await listen_itself(front, f"browser {number}")
    await until(lambda: told["ws"] > 100)
    assert passed.count(instance) <= 1
    assert instance.healthy
    assert not instance.failing


async def test_a_job_pools_socket_is_no_strike_either(
    workers: Workers, start_proxy: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is replaced in the background and asks for one check."""
    monkeypatch.setattr("comfy_proxy.cluster.websocket_pool._FIRST_BACKOFF_S", 0.001)
    monkeypatch.setattr("comfy_proxy.cluster.websocket_pool._LONGEST_BACKOFF_S", 0.002)
    monkeypatch.setattr("comfy_proxy.cluster.health_checker.DEMAND_INTERVAL_S", 60.0)
    front = await start_proxy(*workers)
    cluster, instance = front.app[CLUSTER], front.app[CLUSTER].instances[0]
    await checked(front)
    await cluster.connections.pool(instance).listen()
    told = faults_at(instance)
    await workers[0].kill()
    await until(lambda: told["ws"] > 10)
    assert strikes_of_sockets(instance, told) <= 1
    await workers[0].restart()
    await until(lambda: not instance.failing)


# --- where a prompt may go -----------------------------------------------------------------------


async def test_a_prompt_goes_where_its_client_can_hear_it(
    workers: Workers, start_proxy: Start
) -> None:
    """Every prompt of that client, at once; without a socket any instance will do."""
    front = await start_proxy(*workers)
    workers[0].faults.answers = {"/ws": "500"}
    client = await listen(front, "me")
    for number in range(4):
        await hears(client, front, "me", number)
    assert len(workers[1].submitted) == 4
    for number in range(10, 14):
        await post(front, colour(number), "polls")
    assert workers[0].submitted


async def test_no_prompt_moves_to_where_its_client_cannot_hear_it(
    workers: Workers, start_proxy: Start
) -> None:
    """It waits its turn, though the other instance has nothing to do."""
    front = await start_proxy(*workers)
    workers[1].faults.answers = {"/ws": "500"}
    client = await listen(front, "me")
    ids = [await post(front, colour(n, seconds=0.05), "me") for n in range(4)]
    await client.until_end_of(ids[-1])
    assert workers[0].executed == ids
    assert not workers[1].submitted


async def test_a_prompt_nobody_can_hear_runs_all_the_same(
    workers: Workers, start_proxy: Start
) -> None:
    """With no other instance left the first one takes it; its client polls."""
    front = await start_proxy(*workers)
    workers[0].faults.answers = {"/ws": "500"}
    await listen(front, "me")
    await workers[1].kill()
    prompt_id = await post(front, colour(1), "me")
    assert workers[0].submitted == [prompt_id]


async def test_a_prompt_goes_to_the_one_that_can_run_it_heard_or_not(
    workers: Workers, start_proxy: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal by the instance that lacks the nodes would be worse than silence."""
    front = await start_proxy(*workers)
    workers[0].faults.answers = {"/ws": "500"}
    client = await listen(front, "me")
    gateway, (deaf, _) = front.app[GATEWAY], front.app[CLUSTER].instances

    async def lacks(graph: Any, instance: Instance) -> float:
        return float(instance is not deaf)

    monkeypatch.setattr(gateway.cluster.graph_support, "lacks", lacks)
    prompt_id = await post(front, colour(1), "me")
    assert workers[0].submitted == [prompt_id]
    await client.ws.close()


async def test_ready_says_whether_the_socket_is_there(
    front: Any, instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    """True when it has come, and for a client without one; False for one that is only dialling."""
    monkeypatch.setattr("comfy_proxy.gateway.events.clients.READY_TIMEOUT_S", 0.02)
    gateway, instance = front.app[GATEWAY], front.app[CLUSTER].instances[0]
    one = instances[0][1]
    one.gate.clear()
    client = await listen(front, "me")
    assert await gateway.clients.ready("stranger", instance) is True
    assert await gateway.clients.ready("me", instance) is False
    one.gate.set()
    await one.wire()
    assert await gateway.clients.ready("me", instance) is True
    await client.ws.close()
    await until(lambda: len(gateway.events) == 0)
    assert await gateway.clients.ready("me", instance) is True


async def test_ready_follows_the_client_to_its_newest_socket(
    front: Any, instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that is loaded again while its prompt waits for the socket."""
    gateway, instance = front.app[GATEWAY], front.app[CLUSTER].instances[0]
    one = instances[0][1]
    one.gate.clear()
    await listen(front, "me")
    ready = asyncio.create_task(gateway.clients.ready("me", instance))
    await one.asked.wait()
    await listen(front, "me")
    one.gate.set()
    assert await ready is True
    assert upstreams_to(front, instance)[0].is_connected
