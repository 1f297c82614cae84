"""Whatever clients send: the log has no line ``error`` of it, no stack trace, and all goes on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from serving import Served, serving

from comfy_proxy.embedded.worker import EmbeddedWorker

pytestmark = pytest.mark.long

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
LONE = "\ud800"
GRAPH = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
    },
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body and "Transfer_Encoding" not in headers and "Content_Length" not in headers:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def post(path: str, document: Any, **headers: str) -> bytes:
    """JSON as the standard library writes it: a lone surrogate as an escape."""
    body = json.dumps(document).encode()
    return request("POST", path, body, Content_Type="application/json", **headers)


MISTAKES = [
    *(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"),
    request("GET", "/queue", X=("x" * 100_000)),
    request("GET", "/%ff%00%zz"),
    request("GET", "/view?filename=%ED%A0%80&type=output"),
    request("GET", "/history/%ED%A0%80"),
    request("GET", "/ws", Upgrade="websocket", Connection_="Upgrade", Sec_WebSocket_Version="99"),
    request("POST", "/prompt", b"{", Content_Type="application/json"),
    request("POST", "/prompt", b"\xff\xfe", Content_Type="application/json; charset=nonsense"),
    request("POST", "/prompt", b"zz\r\n", Transfer_Encoding="chunked"),
    request("POST", "/prompt", b"{}", Content_Length="1000"),
    request("POST", "/prompt", b"x", Content_Encoding="gzip"),
    request("POST", "/upload/image", b"--x", Content_Type="multipart/form-data; boundary=y"),
    request("POST", "/upload/image", b"--x", Content_Type="multipart/form-data"),
    request("POST", "/api/remove-background", b"x", Content_Type="multipart/form-data; boundary=x"),
    request("POST", "/api/remove-background", b"{", Content_Type="application/json"),
    request("POST", "/api/workflows/%ED%A0%80", b"{}", Content_Type="application/json"),
    request("GET", "/api/jobs/%ED%A0%80/status?wait=never"),
    request("DELETE", "/api/jobs/nobody"),
    request("BREW", "/queue"),
    request("POST", "/api/instances/%ED%A0%80/drain"),
    post("/prompt", {"prompt": {}, "prompt_id": LONE}),
    post("/prompt", {"prompt": GRAPH, "prompt_id": 7, "client_id": LONE}),
    post("/prompt", {"prompt": GRAPH, "prompt_id": LONE, "extra_data": {LONE: LONE}}),
    post("/prompt", {"prompt": {LONE: {"class_type": LONE, "inputs": {LONE: LONE}}}}),
    post("/queue", {"delete": [LONE, 7, None, {}]}),
    post("/queue", {"clear": LONE}),
    post("/history", {"delete": [LONE]}),
    post("/interrupt", {"prompt_id": LONE}),
    post("/free", [LONE]),
    post("/api/upscale-image", {"image": LONE, "format": LONE}),
    post("/api/workflows/upscale-image", {LONE: LONE}, Idempotency_Key="\xed\xa0\x80"),
]


async def send(served: Served, data: bytes) -> None:
    """Send it, and read until the proxy has closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        writer.write(data)
        writer.write_eof()
        await reader.read()
    except ConnectionError:
        pass
    finally:
        writer.close()


@pytest.mark.parametrize("instances", [1, 2])
async def test_no_mistake_is_an_error_of_ours(
    workers: Pair, tmp_path: Path, instances: int
) -> None:
    """Neither in ``error.log`` nor as a stack trace on the console."""
    hosts = [worker.host for worker in workers[:instances]]
    async with serving(*hosts, logs=tmp_path / "logs") as served:
        for mistake in MISTAKES:
            await send(served, mistake)
        async with served.http.ws_connect(f"{served.url}/ws?clientId=%ED%A0%80") as ws:
            await ws.send_str('{"type": "feature_flags", "data": 7}')
            await ws.send_str("\x00{")
            await ws.send_bytes(bytes(9))
        for path in ("/queue", "/history", "/health", "/api/jobs/list", "/metrics"):
            assert isinstance(await served.get(path), dict)
        assert await served.end() == 0
    assert served.text("error.log") == ""
    assert "Traceback" not in served.said
    assert "Traceback" not in served.text()


async def test_a_lone_surrogate_as_an_id_breaks_nothing(workers: Pair, tmp_path: Path) -> None:
    """ComfyUI takes such a prompt: it runs, stands in the history, and its events are passed on."""
    hosts = [worker.host for worker in workers]
    async with (
        serving(*hosts, logs=tmp_path / "logs") as served,
        served.http.ws_connect(f"{served.url}/ws?clientId=a") as ws,
    ):
        body = json.dumps({"prompt": GRAPH, "prompt_id": LONE, "client_id": "a"})
        headers = {"Content-Type": "application/json"}
        url = f"{served.url}/prompt"
        async with served.http.post(url, data=body, headers=headers) as answer:
            assert answer.status == 200
            assert json.loads(await answer.read())["prompt_id"] == LONE
        async for message in ws:
            if isinstance(message.data, str) and "execution_success" in message.data:
                assert json.loads(message.data)["data"]["prompt_id"] == LONE
                break
        async with served.http.get(f"{served.url}/history") as answer:
            assert LONE in json.loads(await answer.read())
        async with served.http.post(
            f"{served.url}/history", data=json.dumps({"delete": [LONE]}), headers=headers
        ) as answer:
            assert answer.status == 200
        async with served.http.get(f"{served.url}/history") as answer:
            assert json.loads(await answer.read()) == {}
        assert await served.end() == 0
    assert served.text("error.log") == ""
    assert "Traceback" not in served.said
