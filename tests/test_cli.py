"""The command line and the three ways to run the proxy, as processes of their own."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiohttp.web_protocol import RequestHandler
from child_signals import listen_to_all
from kept_ports import kept_port

from comfy_proxy import __version__, create_app
from comfy_proxy.cli import main
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import CLUSTER, SETTINGS
from comfy_proxy.serve import run

pytestmark = pytest.mark.long

ROOT = Path(__file__).parent.parent
Pair = tuple[EmbeddedWorker, EmbeddedWorker]
PATIENCE_S = 30.0
"""Before what does not come true fails the test."""


@pytest.fixture
def ports() -> Iterator[list[int]]:
    """Two free ports that no other program is given while the test runs."""
    with kept_port() as first, kept_port() as second:
        yield [first, second]


@pytest.fixture(autouse=True)
def _logs_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOG_DIRECTORY", str(tmp_path / "logs"))


def environment(workers: Pair, **changes: str) -> dict[str, str]:
    hosts = {f"COMFYUI_HOST_{n}": worker.host for n, worker in enumerate(workers, start=1)}
    patient = {"HEALTH_CHECK_TIMEOUT": "2000"}  # the next check would be half a minute later
    return {**os.environ, **hosts, **patient, **changes}


async def until_ready(url: str, process: asyncio.subprocess.Process) -> None:
    """Return when the proxy at ``url`` can take a job; fails if its process ends before."""
    async with asyncio.timeout(PATIENCE_S), aiohttp.ClientSession() as session:
        while process.returncode is None:
            try:
                async with session.get(f"{url}/health/ready") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.02)
    pytest.fail("the process ended before it was ready")


def test_clients_connections_are_kept_as_long_as_comfyui_keeps_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ComfyUI runs an ``AppRunner`` of aiohttp's defaults; ``run_app`` by itself would end an idle
    connection after 75 s, and clients that keep theirs for 90 would post on it as it closes.
    """
    given: dict[str, Any] = {}
    monkeypatch.setattr(web, "run_app", lambda _app, **options: given.update(options))
    app = create_app()
    assert run(app, app[SETTINGS]) == 0
    given["loop"].close()
    native = inspect.signature(RequestHandler).parameters["keepalive_timeout"].default
    assert given["keepalive_timeout"] == native
    assert native > 90


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_serve_answers_until_it_is_told_to_end(
    workers: Pair, number: int, ports: list[int]
) -> None:
    """``comfy-proxy serve`` listens where it is told and ends with 0 on a signal."""
    port = ports[0]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "comfy_proxy", "serve"),
        env=environment(workers, PORT=str(port)),
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=listen_to_all,
    )
    await until_ready(f"http://127.0.0.1:{port}", process)
    process.send_signal(number)
    async with asyncio.timeout(PATIENCE_S):
        _, log = await process.communicate()
    assert process.returncode == 0
    assert f"comfy_proxy {__version__}" in log.decode()
    assert "Traceback" not in log.decode()


async def test_a_hangup_does_not_end_what_runs_under_nohup(workers: Pair, ports: list[int]) -> None:
    """Whoever started it like that wants it to stay when the terminal goes away."""
    port = ports[0]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "comfy_proxy", "serve"),
        env=environment(workers, PORT=str(port)),
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    await until_ready(f"http://127.0.0.1:{port}", process)
    process.send_signal(signal.SIGHUP)
    await until_ready(f"http://127.0.0.1:{port}", process)
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE_S):
        await process.communicate()
    assert process.returncode == 0


async def test_it_runs_without_standard_streams(workers: Pair, ports: list[int]) -> None:
    """As some service managers start it: its own sockets must not get their numbers."""
    port = ports[0]
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f"exec {sys.executable} -m comfy_proxy serve <&- >&- 2>&-"),
        env=environment(workers, PORT=str(port)),
    )
    await until_ready(f"http://127.0.0.1:{port}", process)
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0


async def test_a_signal_before_it_is_ready_does_not_end_it(workers: Pair, ports: list[int]) -> None:
    """Whoever changes the level may be quicker than the start."""
    port = ports[0]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "comfy_proxy", "serve"),
        env=environment(workers, PORT=str(port)),
        stderr=asyncio.subprocess.PIPE,
    )
    first = await process.stderr.readline()  # before the application starts
    assert f"comfy_proxy {__version__}" in first.decode()
    for _ in range(20):
        process.send_signal(signal.SIGUSR1)
    await until_ready(f"http://127.0.0.1:{port}", process)
    process.send_signal(signal.SIGTERM)
    await process.communicate()
    assert process.returncode == 0


async def test_a_client_that_does_not_read_cannot_hold_up_the_end(ports: list[int]) -> None:
    """What is still being sent has SHUTDOWN_TIMEOUT too, not aiohttp's minute."""

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with suppress(ConnectionError):
            while True:
                await response.write(bytes(1 << 20))
        return response

    async def stats(request: web.Request) -> web.Response:
        return web.json_response({"system": {}})

    app = web.Application()
    app.router.add_get("/system_stats", stats)
    app.router.add_get("/endless", endless)
    async with TestServer(app) as upstream:
        port = ports[0]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "comfy_proxy", "serve"),
            env={
                **os.environ,
                **{"COMFYUI_HOST_1": f"127.0.0.1:{upstream.port}", "PORT": str(port)},
                "SHUTDOWN_TIMEOUT": "200",
            },
            stderr=asyncio.subprocess.PIPE,
        )
        await until_ready(f"http://127.0.0.1:{port}", process)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readexactly(1024)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            await process.communicate()
        writer.close()
    assert process.returncode == 0


async def test_adev_runs_it(workers: Pair, ports: list[int]) -> None:
    """``adev runserver comfy_proxy`` finds the application and serves jobs' health."""
    port = ports[0]
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).parent / "adev"), "runserver", "comfy_proxy"),
        *("-p", str(port), "--aux-port", str(ports[1]), "--no-livereload"),
        env=environment(workers),
        cwd=ROOT,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        await until_ready(f"http://127.0.0.1:{port}", process)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        await process.wait()


def test_bad_settings_are_all_told_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings that cannot be used end the start with exit code 2 and a line for each problem."""
    monkeypatch.setenv("PORT", "99999")
    monkeypatch.setenv("LOG_LEVEL", "loud")
    monkeypatch.setenv("COMFYUI_HOST_1", "ftp://x")
    assert main(["serve"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3
    for name in ("PORT", "LOG_LEVEL", "COMFYUI_HOST_1"):
        assert any(name in line for line in told)


async def test_a_port_in_use_is_told_in_one_line(workers: Pair) -> None:
    """A port that somebody else has ends the start with exit code 1 and no stack trace."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "comfy_proxy", "serve"),
            env=environment(workers, PORT=str(taken.getsockname()[1])),
            stderr=asyncio.subprocess.PIPE,
        )
        _, log = await process.communicate()
    assert process.returncode == 1
    assert "cannot listen" in log.decode()
    assert "Traceback" not in log.decode()


@pytest.mark.parametrize(("missing", "code"), [((), 0), (("RemoveBackground",), 1)])
async def test_check_says_what_each_instance_can_run(
    tmp_path: Path, missing: tuple[str, ...], code: int
) -> None:
    """``comfy-proxy check`` names each instance and workflow, and what is missing."""
    async with EmbeddedWorker(base_directory=tmp_path, missing_nodes=missing) as worker:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "comfy_proxy", "check"),
            env={**os.environ, "COMFYUI_HOST_1": worker.host},
            stdout=asyncio.subprocess.PIPE,
        )
        told, _ = await process.communicate()
    assert process.returncode == code
    assert f"{worker.host}: answers" in told.decode()
    assert "upscale-image: runs" in told.decode()
    for name in missing:
        assert f"lacks {name}" in told.decode()


async def test_check_names_what_the_console_cannot_show(tmp_path: Path) -> None:
    """A node's name in any script, on a console of ASCII: with escapes, not with a stack trace."""
    templates = tmp_path / "templates"
    templates.mkdir()
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
        "2": {"class_type": "图像", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
    }
    (templates / "own.json").write_text(json.dumps(graph))
    async with EmbeddedWorker(base_directory=tmp_path) as worker:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "comfy_proxy", "check"),
            env={
                **os.environ,
                **{"COMFYUI_HOST_1": worker.host, "WORKFLOW_DIRECTORY": str(templates)},
                "PYTHONIOENCODING": "ascii:strict",
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        told, errors = await process.communicate()
    assert process.returncode == 1
    assert errors == b""
    assert b"lacks \\u56fe\\u50cf" in told


async def test_check_of_an_instance_that_is_down_fails() -> None:
    """``comfy-proxy check`` ends with 1 when an instance does not answer."""
    with kept_port() as port:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "comfy_proxy", "check"),
            env={**os.environ, "COMFYUI_HOST_1": f"127.0.0.1:{port}"},
            stdout=asyncio.subprocess.PIPE,
        )
        told, _ = await process.communicate()
    assert process.returncode == 1
    assert b"cannot be reached" in told


def test_create_app_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an argument the application takes its settings from the environment."""
    monkeypatch.setenv("COMFYUI_HOST_1", "https://gpu.example/comfy")
    app = create_app()
    assert isinstance(app, web.Application)
    assert [str(url) for url in app[SETTINGS].instances] == ["https://gpu.example/comfy"]
    assert [instance.host for instance in app[CLUSTER].instances] == ["gpu.example:443/comfy"]


def test_the_version_is_the_same_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    """``--version`` and the package agree."""
    with pytest.raises(SystemExit):
        main(["--version"])
    assert __version__ in capsys.readouterr().out
