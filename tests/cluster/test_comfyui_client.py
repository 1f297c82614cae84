"""ComfyUI's HTTP API: requests as it wants them, answers and wrong answers as values and errors."""

from __future__ import annotations

import io
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aioresponses import aioresponses
from cluster_harness import graph
from yarl import URL

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.comfyui_client import ComfyUIClient, OutputFile
from comfy_proxy.cluster.object_info.single_classes import class_info
from comfy_proxy.cluster.prompt_answers import without_paths
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.errors import (
    InstanceRefusedError,
    InstanceTimeoutError,
    InstanceUnreachableError,
    InvalidAnswerError,
    PromptLostError,
    PromptRejectedError,
    ResultError,
)
from comfy_proxy.stored_bytes import StoredBytes

GPU = "http://gpu1:8188/comfy"
PROMPT_ID = "0dfe5e00-5637-46f0-ae6a-12e54160ba92"
FILE = OutputFile(filename="a b.png", subfolder="x", type="temp")


@pytest.fixture
async def client(connected: Callable[..., Awaitable[Cluster]]) -> ComfyUIClient:
    """A client of an instance with a path prefix that no server stands behind."""
    cluster = await connected(GPU)
    return cluster.clients[cluster.instances[0]]


@pytest.fixture
def answers() -> AsyncIterator[aioresponses]:
    with aioresponses() as mocked:
        yield mocked


def client_of(cluster: Cluster) -> ComfyUIClient:
    return cluster.clients[cluster.instances[0]]


async def submit(client: ComfyUIClient) -> str:
    told = await client.submit(graph().prompt, prompt_id=PROMPT_ID, client_id="c")
    return told.prompt_id or ""


async def test_check(client: ComfyUIClient, answers: aioresponses) -> None:
    """A /system_stats as ComfyUI writes it passes, and is no attempt of its own."""
    attempts: list[Any] = []
    client.instance.observers.append(attempts.append)
    answers.get(f"{GPU}/system_stats", payload={"system": {}, "devices": []})
    await client.check(0.3)
    assert attempts == []


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"body": "<!doctype html>"}, InvalidAnswerError),
        ({"payload": []}, InvalidAnswerError),
        ({"payload": {"status": "ok"}}, InvalidAnswerError),
        ({"status": 500, "body": "oops"}, InstanceRefusedError),
        ({"status": 302, "headers": {"Location": "/login"}}, InstanceRefusedError),
        ({"status": 503}, InstanceUnreachableError),
        ({"exception": ConnectionResetError()}, InstanceUnreachableError),
        ({"exception": TimeoutError()}, InstanceTimeoutError),
    ],
)
async def test_check_fails(
    client: ComfyUIClient, answers: aioresponses, answer: dict[str, Any], error: type
) -> None:
    """HTML, JSON of something else, errors, redirects and broken connections are no ComfyUI."""
    answers.get(f"{GPU}/system_stats", **answer)
    with pytest.raises(error):
        await client.check(0.3)


async def test_queue(client: ComfyUIClient, answers: aioresponses) -> None:
    """/queue is the ids that run and the ids that wait."""
    running, pending = [3, "r", {}, {}, []], [[5, "p2", {}, {}, []], [4, "p1", {}, {}, []]]
    answers.get(f"{GPU}/queue", payload={"queue_running": [running], "queue_pending": pending})
    queue = await client.queue()
    assert (queue.running, queue.pending) == ({"r"}, {"p1", "p2"})
    assert "p1" in queue
    assert "r" in queue
    assert "x" not in queue


@pytest.mark.parametrize("payload", [[], {}, {"queue_running": {}, "queue_pending": []}])
async def test_queue_of_something_else(
    client: ComfyUIClient, answers: aioresponses, payload: object
) -> None:
    """JSON that is no queue is an invalid answer."""
    answers.get(f"{GPU}/queue", payload=payload)
    with pytest.raises(InvalidAnswerError):
        await client.queue()


async def test_an_odd_entry_of_a_queue_hides_no_other(
    client: ComfyUIClient, answers: aioresponses
) -> None:
    """Entries without an id, with one that is no string, with NaN: the rest is what it is."""
    odd: list[object] = [
        [],
        None,
        7,
        {},
        [1],
        [2, 3],
        [2, ["x"]],
        [float("nan"), "n"],
        [1, "\ud800"],
    ]
    body = json.dumps({"queue_running": odd, "queue_pending": [*odd, [5, "p", {}, {}, []]]})
    answers.get(f"{GPU}/queue", body=body)
    queue = await client.queue()
    assert (queue.running, queue.pending) == ({"n", "\ud800"}, {"n", "\ud800", "p"})


@pytest.mark.parametrize("prompt_id", ["\ud800", "", "..", "."])
async def test_an_id_that_no_path_can_hold_is_looked_for_in_the_whole_history(
    client: ComfyUIClient, answers: aioresponses, prompt_id: str
) -> None:
    """A path is UTF-8 and has segments that mean something: such an id is found all the same."""
    entry = {"outputs": {}, "status": {"messages": [["x", float("inf")]]}}
    answers.get(f"{GPU}/history", body=json.dumps({"other": {}, prompt_id: entry}))
    assert await client.history(prompt_id) == entry


async def test_an_id_with_a_slash_is_one_segment(
    client: ComfyUIClient, answers: aioresponses
) -> None:
    """What means something in a URL is escaped."""
    answers.get(URL(f"{GPU}/history/a%2Fb%3Fc", encoded=True), payload={"a/b?c": {}})
    assert await client.history("a/b?c") == {}


@pytest.mark.parametrize(
    ("payload", "entry"),
    [({}, None), ({PROMPT_ID: {"outputs": {}}}, {"outputs": {}}), ([], None), ({"x": {}}, None)],
)
async def test_history(
    client: ComfyUIClient, answers: aioresponses, payload: object, entry: object
) -> None:
    """An unfinished or unknown prompt has no entry."""
    answers.get(f"{GPU}/history/{PROMPT_ID}", payload=payload)
    assert await client.history(PROMPT_ID) == entry


async def test_class_info(client: ComfyUIClient, answers: aioresponses) -> None:
    """One class is asked for by its name, blanks and brackets included."""
    url = f"{GPU}/object_info/Image%20Rembg%20(Remove%20Background)"
    answers.get(url, payload={"Image Rembg (Remove Background)": {"input": {}}})
    answers.get(f"{GPU}/object_info/Nope", payload={})
    assert await class_info(client, "Image Rembg (Remove Background)") == (
        b'{"Image Rembg (Remove Background)": {"input": {}}}'
    )
    assert await class_info(client, "Nope") == b"{}"


async def test_a_list_that_is_not_read_must_begin_as_json(
    client: ComfyUIClient, answers: aioresponses
) -> None:
    """The page of a login is no list of files, and counts as a fault of the instance."""
    answers.get(f"{GPU}/models/loras", body=' ["a"]')
    answers.get(f"{GPU}/models/loras", body="<html>")
    assert await client.body("models/loras") == b' ["a"]'
    with pytest.raises(InvalidAnswerError):
        await client.body("models/loras")
    assert client.instance.breaker.consecutive_failures == 1


async def test_class_info_with_odd_names(client: ComfyUIClient, answers: aioresponses) -> None:
    """A file name that is no UTF-8, and limits that no float has, come as they are."""
    info = {"input": {"required": {"image": [["caf\udce9.png"], {"min": -(2**64), "x": 1e999}]}}}
    body = json.dumps({"LoadImage": info})
    answers.get(f"{GPU}/object_info/LoadImage", body=body)
    assert await class_info(client, "LoadImage") == body.encode()
    with pytest.raises(InstanceRefusedError):
        await class_info(client, "caf\udce9")


async def test_a_result_whose_name_is_no_utf8(client: ComfyUIClient) -> None:
    """No query can name it: the job ends, and says why."""
    with pytest.raises(ResultError, match="UTF-8"):
        await client.view(
            OutputFile(filename="caf\udce9.png", subfolder="", type="temp"), StoredBytes()
        )


@pytest.mark.parametrize(
    ("status", "body", "error", "strikes"),
    [
        (500, "500 Internal Server Error", InstanceRefusedError, 0),
        (413, "too large", InstanceRefusedError, 0),
        (502, "bad gateway", InstanceUnreachableError, 1),
        (200, "<html>", InvalidAnswerError, 1),
        (200, "{}", InvalidAnswerError, 1),
        (400, "bad request", InvalidAnswerError, 1),
        (400, '{"error": {"message": "no"}, "node_errors": {}}', PromptRejectedError, 0),
    ],
)
async def test_submit_refused(
    client: ComfyUIClient,
    answers: aioresponses,
    status: int,
    body: str,
    error: type,
    strikes: int,
) -> None:
    """A plain 500 is ComfyUI's answer and no strike; a gateway's or a stranger's answer is one."""
    answers.post(f"{GPU}/prompt", status=status, body=body)
    with pytest.raises(error):
        await submit(client)
    assert client.instance.breaker.consecutive_failures == strikes


@pytest.mark.parametrize("odd", [None, 7, [], {"errors": 3}, {"errors": [None, "x"]}])
async def test_odd_complaints_hide_no_other(
    client: ComfyUIClient, answers: aioresponses, odd: object
) -> None:
    """A refusal says what can be understood of it."""
    complaint = {"class_type": "A", "errors": [{"message": "caf\udce9", "details": "d"}]}
    refusal = {"error": {"message": "no"}, "node_errors": {"1": odd, "2": complaint}}
    answers.post(f"{GPU}/prompt", status=400, body=json.dumps(refusal))
    with pytest.raises(PromptRejectedError, match=re.escape("no; A (node 2): caf\udce9 d")):
        await submit(client)


async def test_submit_takes_the_id_that_it_is_given(
    client: ComfyUIClient, answers: aioresponses
) -> None:
    """Old servers choose the prompt id themselves."""
    answers.post(f"{GPU}/prompt", payload={"prompt_id": "other", "number": 1, "node_errors": {}})
    assert await submit(client) == "other"


async def test_rejection_in_comfyuis_words(cluster: Cluster) -> None:
    """A 400 tells the message and each node's complaint, without the instance's paths."""
    prompt = {"1": {"class_type": "LoadImage", "inputs": {"image": "gone.png"}}}
    prompt["2"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}}
    with pytest.raises(PromptRejectedError) as caught:
        await client_of(cluster).submit(prompt, prompt_id=PROMPT_ID, client_id="c")
    assert "LoadImage (node 1)" in caught.value.message
    assert "gone.png" in caught.value.message


async def test_rejection_without_details(client: ComfyUIClient, answers: aioresponses) -> None:
    """Even a 400 that says nothing becomes a sentence."""
    answers.post(f"{GPU}/prompt", status=400, payload={"node_errors": {"1": {"errors": None}}})
    answers.post(f"{GPU}/prompt", status=400, payload={"error": {}})
    with pytest.raises(PromptRejectedError, match="None"):
        await submit(client)
    with pytest.raises(PromptRejectedError, match="ComfyUI refused the graph"):
        await submit(client)


async def test_upload(cluster: Cluster, worker: EmbeddedWorker, picture: bytes) -> None:
    """The bytes go up as they are, once for the same picture; the name is what LoadImage takes."""
    for source in (io.BytesIO(picture), picture):
        name = await client_of(cluster).upload_file(source, name="x.png", size=len(picture))
        assert name == "comfy_proxy/x.png"
    assert (worker.folders.base / "input" / name).read_bytes() == picture


async def test_upload_on_a_full_disk(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """A 500 for a full disk is told as a refusal and is no strike."""
    worker.faults.disk_full = True
    with pytest.raises(InstanceRefusedError):
        await client_of(cluster).upload_file(b"x", name="x.png", size=1)
    assert cluster.instances[0].breaker.consecutive_failures == 0


@pytest.mark.parametrize("payload", [[], {"name": "x.png"}])
async def test_upload_without_a_name(
    client: ComfyUIClient, answers: aioresponses, payload: object
) -> None:
    """An upload's answer without name and folder is an invalid answer."""
    answers.post(f"{GPU}/upload/image", payload=payload)
    with pytest.raises(InvalidAnswerError):
        await client.upload_file(b"x", name="x.png", size=1)


async def test_view_of_a_file_that_is_gone(client: ComfyUIClient, answers: aioresponses) -> None:
    """404 means that the result is lost: the job may run again, the instance is not to blame."""
    answers.get(f"{GPU}/view?filename=a+b.png&subfolder=x&type=temp", status=404)
    with pytest.raises(PromptLostError):
        await client.view(FILE, StoredBytes())
    assert client.instance.breaker.consecutive_failures == 0


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("No such file: '/home/al/ComfyUI/models/x.pth'", "No such file: 'x.pth'"),
        (r"cannot open C:\Program Files\Comfy UI\in\x.png", "cannot open x.png"),
        ("scale 1/2/3 of and/or", "scale 1/2/3 of and/or"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
        ("CUDA out of memory", "CUDA out of memory"),
        ("x" * 5000, "x" * 2000),
    ],
)
def test_error_texts_carry_no_paths(text: str, clean: str) -> None:
    """Directories of an instance's disk are its own matter; the rest of a message stays."""
    assert without_paths(text) == clean
