"""``POST /api/v2/jobs`` with long bodies: what is refused before it is read, what goes through."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from job_client import until
from loop_turns import loop_turns
from prompt_client import Http, graph
from v2_client import V2, code

from comfy_proxy.cluster.object_info.graph_support import MAX_INPUTS, MAX_NODES
from comfy_proxy.comfy_api import submission
from comfy_proxy.comfy_api.fields import MAX_NAME_LENGTH
from comfy_proxy.comfy_api.references import MAX_ID_CHARS, MAX_TOLD
from comfy_proxy.comfy_api.submission import LONG_BYTES, MAX_SIGNS
from comfy_proxy.gateway.prompts.prompt_nesting import MAX_NESTING
from comfy_proxy.json_steps import loads_in_steps
from comfy_proxy.keys import COMFY_API


async def refused(proxy: Http, body: bytes) -> dict[str, Any]:
    async with proxy.post("/api/v2/jobs", data=io.BytesIO(body)) as answer:
        assert answer.status == 422, await answer.text()
        told: dict[str, Any] = await answer.json()
        return told


@pytest.mark.parametrize("value", [b"[]", b"[[[[[]]]]]", b"{}", b"0"])
async def test_a_heap_of_values_is_refused_before_it_is_read(
    proxy: Http, value: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 MB of brackets held everybody up for half a second at a time."""
    read: list[int] = []
    monkeypatch.setattr(
        submission, "loads_in_steps", lambda text: (read.append(len(text)), loads_in_steps(text))[1]
    )
    heap = b",".join([value] * (MAX_SIGNS + 1))
    told = await refused(proxy, b'{"workflow": {"1": {"inputs": {"a": [%s]}}}}' % heap)
    assert told["error"]["details"] == {"limit": MAX_SIGNS}
    assert (read, len(proxy.app[COMFY_API].jobs)) == ([], 0)


async def test_a_workflow_that_would_stop_its_instance_is_refused(proxy: Http) -> None:
    deep = b"[" * MAX_NESTING + b"]" * MAX_NESTING
    told = await refused(proxy, b'{"workflow": {"1": {"inputs": {"a": %s}}}}' % deep)
    assert told["error"]["code"] == "too_deeply_nested"
    assert len(proxy.app[COMFY_API].jobs) == 0


@pytest.mark.long
async def test_a_long_text_goes_through_whole(v2: V2) -> None:
    """Of a note in the graph, with its escapes; also when it has ended."""
    workflow = graph()
    workflow["3"]["_meta"] = {"title": "a\n\u00e9\U0001f600\x7f" * 300_000}
    job = await v2.submit(workflow, key="k")
    assert (await v2.get(f"jobs/{job['id']}/workflow"))["workflow"] == workflow
    await v2.ends(job["id"])
    assert (await v2.get(f"jobs/{job['id']}/workflow"))["workflow"] == workflow


async def test_a_long_request_is_known_again_by_its_key(v2: V2) -> None:
    """Whatever the order of its members; and another one is another one."""
    workflow = graph()
    workflow["3"]["_meta"] = {"title": "a" * 2 * LONG_BYTES, "b": [{"c": 1, "d": "\udce9"}]}
    job = await v2.submit(workflow, key="k")
    turned = dict(reversed(workflow.items()))
    turned["3"] = dict(reversed(workflow["3"].items()))
    assert (await v2.submit(turned, key="k"))["id"] == job["id"]
    turned["3"] |= {"_meta": {"title": "b"}}
    assert code(await v2.post("jobs", turned, key="k", expect=422)) == "idempotency_key_reuse"


@pytest.mark.parametrize("name", ["1", "class_type"])
async def test_a_name_of_megabytes_is_refused(proxy: Http, name: str) -> None:
    """It would be repeated in every answer, of ComfyUI's too."""
    body = b'{"workflow": {"1": {"class_type": "A"}}}'
    long = b'"%s"' % (b"x" * (MAX_NAME_LENGTH + 1))
    body = body.replace(b'"A"' if name == "class_type" else b'"1"', long)
    assert str(MAX_NAME_LENGTH) in (await refused(proxy, body))["error"]["message"]


@pytest.mark.long
@pytest.mark.parametrize("nodes", [1, MAX_NODES + 1])
async def test_a_graph_that_is_too_large_to_plan_is_refused(proxy: Http, nodes: int) -> None:
    """Whatever looks through its nodes and inputs does so in one turn of the loop."""
    inputs = {str(number): "x" for number in range(MAX_INPUTS + 1 if nodes == 1 else 1)}
    node = {"class_type": "EmptyImage", "inputs": inputs}
    workflow = {str(number): node for number in range(nodes)}
    told = await refused(proxy, json.dumps({"workflow": workflow}).encode())
    assert code(told) == "invalid_workflow"
    assert f"more than {MAX_NODES} nodes" in told["error"]["message"]


async def test_of_references_without_a_file_some_are_told(proxy: Http) -> None:
    """Each as far as it is an id, and how many more there are."""
    one = b'{"__type": "core/ASSET", "info": {"id": "%s"}}'
    many = b",".join([one % (b"x" * 5000), one.replace(b'"%s"', b"[[]]"), *[one % b"y"] * 200])
    told = await refused(proxy, b'{"workflow": {"1": {"class_type": "A", "a": [%s]}}}' % many)
    ids = told["error"]["details"]["missing_ids"]
    assert len(ids) == MAX_TOLD
    assert {*ids} <= {"x" * MAX_ID_CHARS, "<no id>", "y"}
    assert f"and {202 - MAX_TOLD} more" in told["error"]["message"]


async def test_a_label_of_megabytes_is_not_repeated(proxy: Http) -> None:
    """What is wrong with it is told, and how it begins."""
    told = await refused(proxy, b'{"workflow": {}, "metadata": {"%s": "1"}}' % (b"x" * 1_000_000))
    assert len(told["error"]["message"]) < 300


@pytest.mark.long
async def test_others_have_their_turn_while_one_is_taken_in(v2: V2, proxy: Http) -> None:
    """Of 4 MB of text a few kilobytes at a time are read and written."""
    workflow = graph()
    workflow["3"]["_meta"] = {"title": "\n" * 2_000_000}
    with loop_turns() as turns:
        job = await v2.submit(workflow)
    await until(lambda: proxy.app[COMFY_API].jobs.find(job["id"]) is not None)
    assert turns.count > 2 * 4_000_000 / 65_536
