"""The events of prompts that run on two workers are those of one ComfyUI."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from events_harness import FLAGS, Listener, colour, listen, post

from comfy_proxy.gateway.prompts.large_prompt import LARGE_BYTES

PNG = struct.pack(">II", 1, 2)


def shape(listener: Listener, prompt_id: str) -> list[tuple[str, Any]]:
    """A prompt's own frames, without what differs by chance: times, ids, file names."""
    return [(f["type"], f["data"].get("node")) for f in listener.of_prompt(prompt_id)]


async def test_prompts_on_both_instances_give_their_complete_frames(
    workers: Any, start_proxy: Callable[..., Any]
) -> None:
    """For each what a socket of ComfyUI itself gives, in that order, none twice."""
    front = await start_proxy(*workers)
    client = await listen(front, "me")
    await client.ws.send_str(FLAGS)
    await client.until_type("feature_flags")
    ids = [await post(front, colour(n, "SaveImageWebsocket", 0.1), "me") for n in range(1, 7)]
    for prompt_id in ids:
        if not any(
            f["type"] == "executing" and f["data"]["node"] is None
            for f in client.of_prompt(prompt_id)
        ):
            await client.until_end_of(prompt_id)
    assert all(worker.started for worker in workers)
    async with aiohttp.ClientSession() as http:
        direct = await listen(http, "direct", f"{workers[0].url}/ws")
        await direct.ws.send_str(FLAGS)
        await direct.until_type("feature_flags")
        expected_id = await post(
            http, colour(99, "SaveImageWebsocket", 0.1), "direct", workers[0].url
        )
        await direct.until_end_of(expected_id)
        await direct.ws.close()
    expected = shape(direct, expected_id)
    assert len(expected) > 8
    for prompt_id in ids:
        assert shape(client, prompt_id) == expected
    named = [json.loads(f[8 : 8 + struct.unpack(">I", f[4:8])[0]]) for f in client.binaries]
    assert sorted(one["prompt_id"] for one in named) == sorted(ids)


async def test_prompts_without_client_id_are_told_as_comfyui_does(
    workers: Any, start_proxy: Callable[..., Any]
) -> None:
    """Their ``progress`` goes to everybody, once; their pictures go to nobody."""
    front = await start_proxy(*workers)
    clients = [await listen(front, name) for name in "ab"]
    prompt_id = await post(front, colour(7, "SaveImageWebsocket"))
    for client in clients:
        await client.until_sum(1)
        await client.until_sum(0)
        assert client.binaries == []
    heard = [client.of_prompt(prompt_id) for client in clients]
    assert heard[0] == heard[1]
    assert {frame["type"] for frame in heard[0]} == {"progress", "progress_state"}
    bars = [json.dumps(frame) for frame in heard[0] if frame["type"] == "progress"]
    assert len(bars) == len(set(bars))


async def test_results_of_one_client_reach_no_other(
    workers: Any, start_proxy: Callable[..., Any]
) -> None:
    """Neither its events nor its pictures, in both forms."""
    front = await start_proxy(*workers)
    a, b = await listen(front, "a"), await listen(front, "b")
    prompt_id = await post(front, colour(8, "SaveImageWebsocket"), "a")
    await a.until_end_of(prompt_id)
    other_id = await post(front, colour(9, "SaveImageWebsocket"), "b")
    await b.until_end_of(other_id)
    assert b.of_prompt(prompt_id) == []
    assert [frame[:8] for frame in (*a.binaries, *b.binaries)] == [PNG, PNG]


@pytest.mark.long
@pytest.mark.parametrize("filler", [0, LARGE_BYTES])
@pytest.mark.parametrize(
    ("fields", "hears"),
    [
        ({"extra_data": {"client_id": "a"}}, "a"),
        ({"extra_data": {"client_id": "b"}, "client_id": "a"}, "a"),
        ({"extra_data": {"client_id": "a"}, "client_id": None}, None),
        ({"extra_data": {"client_id": 1}}, None),
    ],
)
async def test_the_client_may_be_named_in_extra_data(
    workers: Any,
    start_proxy: Callable[..., Any],
    fields: Any,
    hears: str | None,
    filler: int,
) -> None:
    """The one beside ``prompt`` wins, also one that is no name (ComfyUI's ``post_prompt``)."""
    front = await start_proxy(*workers)
    clients = {name: await listen(front, name) for name in "ab"}
    extra = fields["extra_data"] | {"extra_pnginfo": "x" * filler}
    body = {"prompt": colour(6, "SaveImageWebsocket"), **fields, "extra_data": extra}
    async with front.post("/prompt", data=io.BytesIO(json.dumps(body).encode())) as answer:
        prompt_id = (await answer.json())["prompt_id"]
    for client in clients.values():
        await client.until_sum(1)
        await client.until_sum(0)
    if hears is not None:
        await clients[hears].until_end_of(prompt_id)
    pictures = {name for name, client in clients.items() if client.binaries}
    assert pictures == ({hears} if hears else set())


async def test_coming_back_in_mid_run_gives_the_rest(
    workers: Any, start_proxy: Callable[..., Any]
) -> None:
    """``executing`` with the node and no prompt_id, then everything to the end (PROTOCOL.md
    trap 14)."""
    front = await start_proxy(*workers)
    client = await listen(front, "me")
    prompt_id = await post(front, colour(5, "SaveImageWebsocket", 0.4), "me")
    await client.until_type("progress", prompt_id=prompt_id)
    await client.ws.close()
    client = await listen(front, "me")
    assert client.sums == [1]
    await client.until_type("executing")
    assert client.texts[-1] == {"type": "executing", "data": {"node": "2"}}
    await client.until_end_of(prompt_id)
    assert [f["type"] for f in client.of_prompt(prompt_id)].count("execution_success") == 1
    assert len(client.binaries) == 1
