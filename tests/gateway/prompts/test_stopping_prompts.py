"""A prompt that would stop the instance which takes it is refused, however it comes."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from prompts_front import Http, Json, Workers, ended, graph, post

from comfy_proxy.gateway.prompts.large_prompt import LARGE_BYTES
from comfy_proxy.gateway.prompts.prompt_nesting import MAX_NESTING

DEPTH = MAX_NESTING - 2  # the body, and ``extra_data``


def nested(depth: int) -> Any:
    value: Any = "[[["
    for _ in range(depth):
        value = [value]
    return value


async def refused(proxy: Http, body: bytes, charset: str = "utf-8") -> Json:
    headers = {"Content-Type": f"application/json; charset={charset}"}
    async with proxy.post("/prompt", data=io.BytesIO(body), headers=headers) as answer:
        told: Json = await answer.json()
        assert (answer.status, told["code"]) == (400, "too_deeply_nested"), told
        return told


@pytest.mark.parametrize("charset", ["utf-8", "utf-16"])
@pytest.mark.parametrize("length", [0, LARGE_BYTES])
async def test_it_is_refused_before_any_instance_has_it(
    proxy: Http, workers: Workers, charset: str, length: int
) -> None:
    extra = {"a": "x" * length, "b": nested(DEPTH + 1)}
    body = json.dumps({"prompt": graph(), "extra_data": extra}).encode(charset)
    assert (await refused(proxy, body, charset))["details"] == {"limit": MAX_NESTING}
    assert [worker.submitted for worker in workers] == [[], []]


@pytest.mark.parametrize("depth", [MAX_NESTING, 900, 2000])
async def test_a_value_of_an_input_counts_too(proxy: Http, workers: Workers, depth: int) -> None:
    """Also where it is so deep that ComfyUI itself may not read it."""
    prompt = graph()
    prompt["3"]["inputs"]["note"] = "HERE"
    whole = json.dumps({"prompt": prompt}).encode()
    await refused(proxy, whole.replace(b'"HERE"', b"[" * depth + b"]" * depth))
    assert [worker.submitted for worker in workers] == [[], []]


async def test_one_that_is_just_not_so_deep_runs(proxy: Http) -> None:
    prompt_id = await post(proxy, graph(0.0), extra_data={"b": nested(DEPTH)})
    assert (await ended(proxy, prompt_id))[prompt_id]["status"]["status_str"] == "success"


@pytest.mark.parametrize("charset", ["hex", "no-such"])
async def test_what_is_no_charset_has_comfyuis_answer(proxy: Http, charset: str) -> None:
    headers = {"Content-Type": f"application/json; charset={charset}"}
    async with proxy.post("/prompt", data=b"{}", headers=headers) as answer:
        assert answer.status in (400, 500)


async def test_a_link_to_nothing_that_comfyui_does_not_check(proxy: Http, workers: Workers) -> None:
    """The instances have told what they can run: by that it is known."""
    await ended(proxy, await post(proxy, graph(0.0)))
    prompt = graph()
    prompt["3"]["inputs"]["more"] = ["99", 0.5]
    async with proxy.post("/prompt", json={"prompt": prompt}) as answer:
        told: Json = await answer.json()
    assert (answer.status, told["code"]) == (400, "invalid_prompt")
    assert told["details"] == {"field": "prompt"}
    assert sum(len(worker.submitted) for worker in workers) == 1


@pytest.mark.long
@pytest.mark.parametrize("inputs", [None, [], [["1", 0]], "x", 1])
async def test_inputs_that_are_no_object(proxy: Http, workers: Workers, inputs: Any) -> None:
    """Also of a node that is not to run: ComfyUI reads them all, after it has taken the prompt."""
    prompt = graph() | {"9": {"class_type": "EmptyImage", "inputs": inputs}}
    async with proxy.post("/prompt", json={"prompt": prompt}) as answer:
        told: Json = await answer.json()
    assert (answer.status, told["code"]) == (400, "invalid_prompt")
    assert told["details"] == {"node_id": "9"}
    del prompt["9"]["inputs"]
    async with proxy.post("/api/v2/jobs", json={"workflow": prompt}) as answer:
        assert 400 <= answer.status < 500, await answer.text()
    assert [worker.submitted for worker in workers] == [[], []]


@pytest.mark.long
@pytest.mark.parametrize("length", [0, LARGE_BYTES])
@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"client_id": []}, "client_id"),
        ({"client_id": {"a": 1}, "extra_data": {"client_id": "me"}}, "client_id"),
        ({"extra_data": {"client_id": ["me"]}}, "extra_data.client_id"),
        ({"extra_data": "text"}, "extra_data"),
        ({"extra_data": [1]}, "extra_data"),
        ({"extra_data": None}, "extra_data"),
    ],
)
async def test_a_client_that_is_no_name(
    proxy: Http, workers: Workers, fields: Json, named: str, length: int
) -> None:
    """ComfyUI looks it up among its sockets in the task with which its process ends."""
    body = json.dumps({"prompt": graph(), "filler": "x" * length, **fields}).encode()
    async with proxy.post("/prompt", data=io.BytesIO(body)) as answer:
        told: Json = await answer.json()
    assert (answer.status, told["code"]) == (400, "invalid_prompt")
    assert told["details"] == {"field": named}
    assert [worker.submitted for worker in workers] == [[], []]


@pytest.mark.long
@pytest.mark.parametrize("client_id", [None, 1, True, 0.5, "", "x" * 5000])
async def test_a_client_that_nobody_is_does_no_harm(proxy: Http, client_id: Any) -> None:
    prompt_id = await post(proxy, graph(0.0), client_id=client_id, extra_data={})
    assert (await ended(proxy, prompt_id))[prompt_id]["status"]["status_str"] == "success"
