"""What a client's socket has missed is told all the same, once and in ComfyUI's order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from events_harness import (
    Listener,
    checked,
    colour,
    listen,
    listen_itself,
    post,
    until,
    upstreams_to,
)
from ledger_front import client_post

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.gateway.events import upstream_socket, upstreams
from comfy_proxy.gateway.prompts import heard_changes
from comfy_proxy.keys import CLUSTER, GATEWAY
from comfy_proxy.ledger.prompt import Prompt

Workers = tuple[EmbeddedWorker, EmbeddedWorker]
GIVEN = ["execution_start", "execution_cached", "executed", "execution_success", "executing"]
"""Of a prompt of which a client has heard nothing."""


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for seconds."""
    monkeypatch.setattr(upstream_socket, "_FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(upstreams, "SILENCE_S", 0.05)
    monkeypatch.setattr("comfy_proxy.gateway.events.missed_ends.SILENCE_S", 0.05)
    monkeypatch.setattr(upstreams, "TOLERANCE_S", 0.0)
    monkeypatch.setattr(heard_changes, "LISTEN_S", 0.05)
    monkeypatch.setattr(heard_changes, "LONGEST_PAUSE_S", 0.1)


@pytest.fixture
async def front(workers: Workers, start_proxy: Callable[..., Any]) -> Any:
    """All prompts go to the first worker: the other one takes none."""
    front = await start_proxy(*workers)
    await checked(front)
    front.app[CLUSTER].instances[1].draining = 1
    return front


def first(front: Any) -> Instance:
    instance: Instance = front.app[CLUSTER].instances[0]
    return instance


def kinds(client: Listener, prompt_id: str) -> list[str]:
    return [one["type"] for one in client.of_prompt(prompt_id)]


def told(client: Listener, prompt_id: str) -> list[str]:
    """Without progress and the nodes on the way."""
    return [
        one["type"]
        for one in client.of_prompt(prompt_id)
        if not one["type"].startswith("progress") and one["data"].get("node", "") in (None, "", "3")
    ]


async def until_idle(direct: aiohttp.ClientSession) -> None:
    """The worker itself has nothing left to do."""
    remaining = 1
    while remaining:
        async with direct.get("/prompt") as answer:
            remaining = (await answer.json())["exec_info"]["queue_remaining"]


async def test_a_silent_socket_is_found_and_replaced(front: Any, workers: Workers) -> None:
    """HTTP answers, no frame comes: the end is told from the history, the next one by frames."""
    client = await listen_itself(front, "me")
    [before] = upstreams_to(front, first(front))
    socket = before._ws
    workers[0].faults.silent_sockets = True
    workers[0].faults.hang = ("/ws",)  # until the silence is over
    prompt_id = await post(front, colour(1), "me")
    await client.until_end_of(prompt_id)
    assert kinds(client, prompt_id) == GIVEN
    [output] = [one["data"] for one in client.of_prompt(prompt_id) if one["type"] == "executed"]
    assert output["node"] == output["display_node"] == "3"
    assert output["output"]["images"][0]["subfolder"] == "@1"
    await client.until_sum(0)
    assert client.texts[-1]["type"] == "status"
    await until(lambda: not before.is_connected)
    workers[0].faults.clear()
    await until(lambda: before.is_connected)
    assert before._ws is not socket
    prompt_id = await post(front, colour(2), "me")
    await client.until_end_of(prompt_id)
    assert "progress_state" in kinds(client, prompt_id)
    assert kinds(client, prompt_id).count("execution_success") == 1


@pytest.mark.long
async def test_what_came_before_the_silence_is_not_told_again(front: Any, workers: Workers) -> None:
    """Only what is missing: not the start. A check of the queue tells that it has changed."""
    client = await listen(front, "me")
    prompt_id = await post(front, colour(1, seconds=0.3), "me")
    await client.until_type("executing", node="2")
    workers[0].faults.silent_sockets = True
    async with aiohttp.ClientSession(workers[0].url) as direct:
        await until_idle(direct)
    await front.app[CLUSTER].health_checker._read_queue(first(front))
    await client.until_end_of(prompt_id)
    assert told(client, prompt_id) == [
        "execution_start",
        "execution_cached",
        *("executed", "execution_success", "executing"),
    ]


async def test_an_end_in_the_gap_of_a_broken_socket(front: Any, workers: Workers) -> None:
    """The prompt ends before the socket is there again: the history tells, at once."""
    client = await listen(front, "me")
    prompt_id = await post(front, colour(1, seconds=0.2), "me")
    await client.until_type("executing", node="2")
    workers[0].faults.hang = ("/ws",)
    workers[0].drop_connections()
    await client.until_end_of(prompt_id)
    workers[0].faults.clear()
    await until(lambda: upstreams_to(front, first(front))[0].is_connected)
    prompt_id_2 = await post(front, colour(2), "me")
    await client.until_end_of(prompt_id_2)
    ends = ["executed", "execution_success", "executing"]
    assert told(client, prompt_id)[-3:] == ends
    assert told(client, prompt_id).count("execution_success") == 1
    assert told(client, prompt_id_2)[-3:] == ends


async def test_an_end_before_the_socket_was_there_again(front: Any, workers: Workers) -> None:
    """Nothing else tells that the queue has changed: the new socket is the reason to look."""
    client = await listen(front, "me")
    prompt_id = await post(front, colour(1, seconds=60.0), "me")
    await client.until_type("executing", node="2")
    instance = first(front)
    [upstream] = upstreams_to(front, instance)
    workers[0].faults.hang = ("/ws", "/queue", "/history")
    workers[0].drop_connections()
    await until(lambda: not upstream.is_connected)
    async with front.post("/interrupt", json={}) as answer:
        assert answer.status == 200
    workers[0].faults.clear()
    await client.until_end_of(prompt_id)
    assert told(client, prompt_id)[-2:] == ["execution_interrupted", "executing"]
    assert told(client, prompt_id).count("execution_interrupted") == 1


async def test_a_socket_that_speaks_tells_its_own_ends(
    front: Any, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The history is read before the frames come: nothing is given, their pictures arrive."""
    monkeypatch.setattr("comfy_proxy.gateway.events.missed_ends.SILENCE_S", 3600.0)
    client = await listen(front, "me")
    gateway = front.app[GATEWAY]
    prompt_id = await post(front, colour(1, "SaveImageWebsocket", 0.1), "me")
    prompt = gateway.ledger.find(prompt_id)
    gateway.clients.end_learnt(prompt, {"status": {}, "outputs": {}}, first(front))
    await client.until_end_of(prompt_id)
    assert client.binaries
    assert kinds(client, prompt_id).count("execution_success") == 1
    assert kinds(client, prompt_id).count("executing") == 4


async def test_the_next_start_proves_that_an_end_was_missed(
    front: Any, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket is new since: the end is told before that start, however long it has."""
    monkeypatch.setattr("comfy_proxy.gateway.events.missed_ends.SILENCE_S", 3600.0)
    client = await listen_itself(front, "me")
    gateway = front.app[GATEWAY]
    prompt = Prompt(prompt_id="missed", post=client_post("me"))
    entry = {"status": {"messages": [["execution_success", {"prompt_id": "missed"}]]}}
    gateway.clients.end_learnt(prompt, entry, first(front))
    prompt_id = await post(front, colour(1), "me")
    await client.until_end_of(prompt_id)
    ids = [one["data"]["prompt_id"] for one in client.texts if "prompt_id" in one["data"]]
    assert ids[:2] == ["missed", "missed"]
    assert kinds(client, "missed") == ["execution_success", "executing"]


async def test_a_client_that_left_is_told_nothing(front: Any, workers: Workers) -> None:
    """And nothing waits for it any more."""
    client = await listen(front, "me")
    workers[0].faults.silent_sockets = True
    gateway = front.app[GATEWAY]
    prompt_id = await post(front, colour(1), "me")
    prompt = gateway.ledger.find(prompt_id)
    if prompt is not None:
        gateway.clients.end_learnt(prompt, {"status": {}, "outputs": {}}, first(front))
    [session] = gateway.events._sessions.values()
    workers[0].faults.silent_sockets = False
    await client.ws.close()
    await until(lambda: len(gateway.events) == 0)
    assert session.own.missed_ends._waited_for == {}


async def test_the_last_frame_after_an_end_is_given_when_the_socket_breaks(
    front: Any, workers: Workers
) -> None:
    """It had told the end, and not yet that nothing runs any more."""
    client = await listen(front, "me")
    prompt_id = await post(front, colour(1), "me")
    await client.until_end_of(prompt_id)
    [session] = front.app[GATEWAY].events._sessions.values()
    session.told.of(prompt_id).over = False  # as if that frame had not come
    workers[0].drop_connections()
    await client.until_end_of(prompt_id)
    assert kinds(client, prompt_id)[-2:] == ["executing", "executing"]
    await asyncio.sleep(0)
