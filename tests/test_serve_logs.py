"""The logs of a real process: its level at run time, disks that cannot, clients that want to."""

from __future__ import annotations

import asyncio
import json
import signal
import uuid
from pathlib import Path
from typing import Any

import pytest
from serving import PATIENCE_S, Served, serving

from comfy_proxy.embedded.worker import EmbeddedWorker

pytestmark = pytest.mark.long

Pair = tuple[EmbeddedWorker, EmbeddedWorker]


def prompt() -> dict[str, Any]:
    picture = {"width": 8, "height": 8, "batch_size": 1, "color": 0}
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": picture},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    return {"prompt": graph, "prompt_id": str(uuid.uuid4())}


async def raw(served: Served, request: bytes) -> bytes:
    """The head of the answer to bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        writer.write(request)
        return await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.close()
        await writer.wait_closed()


async def test_signals_change_the_level(workers: Pair, tmp_path: Path) -> None:
    """SIGUSR1 logs one level more, SIGUSR2 one less, never beyond the ends; nothing restarts."""
    hosts = [worker.host for worker in workers]
    async with serving(*hosts, logs=tmp_path / "logs") as served:

        async def level_becomes(level: str, number: signal.Signals) -> None:
            before = len(served.lines())
            served.process.send_signal(number)
            expected = f"the log level is {level} now"
            await served.logged(lambda line: line["message"] == expected, after=before)

        await served.get("/queue")
        await served.logged(lambda line: line.get("path") == "/queue")
        assert not any(line["level"] == "debug" for line in served.lines())
        await level_becomes("debug", signal.SIGUSR1)
        await level_becomes("debug", signal.SIGUSR1)
        async with served.http.post(f"{served.url}/prompt", json=prompt()) as answer:
            assert answer.status == 200
        await served.logged(lambda line: line["level"] == "debug")
        for level in ("info", "warn", "error"):
            await level_becomes(level, signal.SIGUSR2)
        await served.get("/history")
        assert await served.end() == 0
    assert not any(line.get("path") == "/history" for line in served.lines())


async def test_a_directory_that_cannot_be_made_stops_nothing(workers: Pair, tmp_path: Path) -> None:
    """Requests and jobs are served, lost lines are counted, and it is told once."""
    (tmp_path / "file").write_text("in the way")
    hosts = [worker.host for worker in workers]
    async with serving(*hosts, logs=tmp_path / "file" / "logs") as served:
        for _ in range(20):
            await served.get("/system_stats")
        async with asyncio.timeout(PATIENCE_S):
            while (await served.get("/metrics"))["logs"]["lines_dropped"] < 20:
                pass
        assert await served.end() == 0
    assert served.said.count("comfy-proxy: the log cannot be written") == 1
    assert "GET /system_stats 200" in served.said  # the console has them


async def test_a_token_is_in_no_log(workers: Pair, tmp_path: Path) -> None:
    """Whatever comes of a request whose URL holds a key: neither as it is nor as it was encoded.

    It is told of in access lines, debug lines, refusals, aiohttp's own errors, an instance's
    outage, metrics and the dashboard.
    """
    key, sent = "s3cret/key+&", "%733cret%2fkey%2B%26"  # no text that the logs would know
    hosts = [worker.host for worker in workers]
    logs, environ = tmp_path / "logs", {"API_KEYS": key, "LOG_LEVEL": "debug"}
    async with serving(*hosts, logs=logs, **environ) as served:
        head = f"?token={sent} HTTP/1.1\r\nHost: localhost\r\n"
        mode = "Sec-Fetch-Mode: cors\r\n"
        socket = (
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        )
        requests = {
            f"GET /dashboard{head}\r\n": b"303",
            f"HEAD /{head}\r\n": b"303",
            f"GET /queue{head}{mode}\r\n": b"401",
            f"POST /queue{head}\r\n": b"401",
            f"GET /manager{head}Sec-Fetch-Site: cross-site\r\n\r\n": b"403",
            f"GET /ws{head}{socket}\r\n": b"101",
            f"GET /{head}Content-Length: {sent}\r\n\r\n": b"400",
            f"GET /{'a' * 9000}{head}\r\n": b"400",
            f"GET {sent}{head}X: {sent}\x00\r\n\r\n": b"400",
        }
        for text, status in requests.items():
            assert (await raw(served, text.encode())).split()[1] == status, text
        for worker in workers:
            await worker.stop()
        named = f"POST /nodes{head}X-API-Key: {key}\r\nReferer: http://x/?token={sent}\r\n\r\n"
        assert (await raw(served, named.encode())).split()[1] in (b"502", b"503")
        await served.logged(lambda line: line.get("path") == "/nodes")
        shown = json.dumps(await served.get("/metrics", **{"X-API-Key": key}))
        assert await served.end() == 0
    told = served.said + served.text() + served.text("error.log") + shown
    assert "/dashboard" in told
    assert "3cret" not in told.lower()


async def test_no_header_writes_a_line_of_its_own(workers: Pair, tmp_path: Path) -> None:
    """Newlines, folds, controls, bytes that are no text: one line a request, in file and console.

    A request that is no HTTP is refused before it is ours, and no error of ours.
    """
    hosts = [worker.host for worker in workers]
    forged = b'{"level":"error","message":"forged"}'
    headers = [
        b"User-Agent: a\x1b[2Jb",
        b"User-Agent: a\r\n " + forged,
        b"User-Agent: a\n" + forged,
        b"User-Agent: a\r" + forged,
        b"User-Agent: a\x00b",
        b"User-Agent: a\x85" + forged + b"\xff\xc2\x85\xe2\x80\xa8b",
        b"User-Agent: " + b"x" * 6000,
        b"X-Request-ID: a\x1bb",
        b"X-Request-ID: a\r\n\t" + forged,
        b"X-Request-ID: a\n" + forged,
        b"X-Request-ID: \xff\xfe",
        b"X-Request-ID: " + forged,
        b"traceparent: 00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01\x0b",
    ]
    async with serving(*hosts, logs=tmp_path / "logs") as served:
        statuses = []
        for number, header in enumerate(headers):
            head = b"GET /nothing-%d HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n" % (number, header)
            statuses.append((await raw(served, head)).split()[1])
        assert set(statuses) <= {b"404", b"400"}
        assert await served.end() == 0
    access = [line for line in served.lines() if line["logger"] == "comfy_proxy.access"]
    ours = [line for line in access if line["path"].startswith("/nothing")]
    assert [line["path"] for line in ours] == [
        f"/nothing-{number}" for number, status in enumerate(statuses) if status == b"404"
    ]
    assert len(ours) >= 4
    assert not any(line["message"].startswith("forged") for line in served.lines())
    assert served.lines("error.log") == []
    for line in ours:
        assert line["request_id"].isalnum()
    assert not set(served.said) & {"\x1b", "\x00", "\x0b", "\x85", "\u2028", "\r"}
    told = [line for line in served.said.split("\n") if line]
    assert all(line[:4].isdigit() or line.startswith((" ", "Traceback")) for line in told)
