"""SIGHUP to a real process: what it takes over of its configuration, and what of mistakes."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import signal
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from child_signals import listen_to_all
from serving import PATIENCE_S, Served, serving

from comfy_proxy.embedded.worker import EmbeddedWorker

pytestmark = pytest.mark.long

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
OLD, NEW = "an old key of sixteen", "a new key of sixteen"
ROW = """
[[route]]
methods = ["POST"]
path = "/my_pack/reload"
to = "{to}"
"""


class Files:
    """The files of a configuration."""

    def __init__(self, directory: Path) -> None:
        self.config = directory / "proxy.toml"
        self.routes = directory / "routes.toml"

    def write(self, **settings: Any) -> None:
        """``settings`` are all of the file, but for ROUTES_FILE."""
        lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        self.config.write_text("\n".join([*lines, f'routes_file = "{self.routes}"']))


@asynccontextmanager
async def configured(
    tmp_path: Path, workers: Pair, **settings: Any
) -> AsyncIterator[tuple[Served, Files]]:
    files = Files(tmp_path)
    files.routes.write_text(ROW.format(to="primary"))
    files.write(**settings)
    hosts = [worker.host for worker in workers]
    async with serving(*hosts, logs=tmp_path / "logs", config=files.config) as served:
        yield served, files


async def read_again(served: Served) -> str:
    """What the one line says that tells what came of it."""
    before = len(served.lines())
    served.process.send_signal(signal.SIGHUP)
    line = await served.logged(
        lambda line: line["message"].startswith("the configuration"), after=before
    )
    return str(line["message"])


async def status(served: Served, method: str, path: str, **headers: str) -> int:
    async with served.http.request(method, served.url + path, headers=headers) as answer:
        return answer.status


async def last_message(socket: aiohttp.ClientWebSocketResponse) -> aiohttp.WSMessage:
    """What comes after all events."""
    async with asyncio.timeout(PATIENCE_S):
        while (message := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
            pass
    return message


async def test_keys_origins_and_level_are_taken_over(workers: Pair, tmp_path: Path) -> None:
    """From then on; the new key is in no log either. The old one is none, and its socket ends."""
    page = {"Origin": "https://app.example"}
    async with configured(tmp_path, workers, api_keys=[OLD]) as (served, files):
        old, new = {"X-API-Key": OLD}, {"X-API-Key": NEW}
        async with served.http.ws_connect(f"{served.url}/ws?clientId=a", headers=old) as socket:
            assert await status(served, "GET", "/queue", **old) == 200
            assert await status(served, "GET", "/queue", **new) == 401
            assert await status(served, "GET", "/queue", **old, **page) == 403
            files.write(api_keys=[NEW], cors_origins=["https://app.example"], log_level="debug")
            told = await read_again(served)
            assert "LOG_LEVEL, CORS_ORIGINS, API_KEYS taken over" in told
            assert await status(served, "GET", "/queue", **old) == 401
            assert await status(served, "GET", "/queue", **new) == 200
            async with served.http.get(f"{served.url}/queue", headers={**new, **page}) as answer:
                assert answer.headers["Access-Control-Allow-Origin"] == page["Origin"]
            asking = {**page, "Access-Control-Request-Method": "POST"}
            assert await status(served, "OPTIONS", "/prompt", **asking) == 200
            await served.http.get(f"{served.url}/queue?note={NEW}", headers=new)
            await served.logged(lambda line: line["message"] == "the log level is debug now")
            files.write(api_keys=[NEW])
            await read_again(served)
            assert await status(served, "OPTIONS", "/prompt", **asking) == 403
            closed = await last_message(socket)
            assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1008)
            assert "key" in closed.extra
        assert await served.end() == 0
    assert NEW not in served.text()
    assert OLD not in served.text()


async def test_rows_of_the_routes_file_are_taken_over(workers: Pair, tmp_path: Path) -> None:
    """Also without ``--config``, and though its name is the same."""
    routes = tmp_path / "routes.toml"
    routes.write_text("")
    hosts, environ = [worker.host for worker in workers], {"ROUTES_FILE": str(routes)}
    async with serving(*hosts, logs=tmp_path / "logs", **environ) as served:
        assert (await read_again(served)).endswith("nothing has changed")
        routes.write_text(ROW.format(to="broadcast"))
        assert (await read_again(served)).endswith("ROUTES_FILE taken over")


@pytest.mark.parametrize("mistake", ["routes", "setting", "syntax"])
async def test_a_mistake_changes_nothing(workers: Pair, tmp_path: Path, mistake: str) -> None:
    """It is told in one line, and what is right in the file is not taken over either."""
    async with configured(tmp_path, workers, api_keys=[OLD]) as (served, files):
        files.write(api_keys=[NEW], **({"job_timeout": -1} if mistake == "setting" else {}))
        if mistake == "routes":
            files.routes.write_text(ROW.format(to="nobody"))
        elif mistake == "syntax":
            files.config.write_text("api_keys = [\n")
        told = await read_again(served)
        assert told.startswith("the configuration is as it was: ")
        assert "\n" not in told
        assert await status(served, "GET", "/queue", **{"X-API-Key": OLD}) == 200
        assert await status(served, "GET", "/queue", **{"X-API-Key": NEW}) == 401
        assert await served.end() == 0
    assert "Traceback" not in served.said


async def test_what_needs_a_restart_is_named(workers: Pair, tmp_path: Path) -> None:
    """The rest of the file is taken over."""
    async with configured(tmp_path, workers) as (served, files):
        files.write(log_level="debug", comfyui_timeout=1000)
        told = await read_again(served)
        assert "LOG_LEVEL taken over; " in told
        assert told.endswith("COMFYUI_TIMEOUT left as before: that needs a restart")


async def names_of(served: Served) -> list[tuple[str, str | None]]:
    listed = (await served.get("/api/instances"))["instances"]
    return [(one["host"], one["name"]) for one in listed]


async def test_instances_and_their_names_are_taken_over(workers: Pair, tmp_path: Path) -> None:
    """What is new in the file joins, what is gone from it leaves as an operator would have it; who
    was added by hand stays."""
    one, two = workers
    three = EmbeddedWorker(base_directory=tmp_path / "three", name="three", test_nodes=True)
    four = EmbeddedWorker(base_directory=tmp_path / "four", name="four", test_nodes=True)
    async with three, four, configured(tmp_path, workers) as (served, files):
        told = await reload_with(served, files, comfyui_host_3=three.host, comfyui_name_1="left")
        assert "COMFYUI_HOST_1…, COMFYUI_NAME_1… taken over" in told
        assert await names_of(served) == [(one.host, "left"), (two.host, None), (three.host, None)]
        async with served.http.post(
            f"{served.url}/api/instances", json={"url": four.host, "name": "hand"}
        ) as answer:
            assert answer.status == 201
        await reload_with(served, files, comfyui_name_1="other", comfyui_name_2="left")
        await served.logged(
            lambda line: line["message"] == f"instance {three.host} (number 3) is removed"
        )
        assert await names_of(served) == [
            (one.host, "other"), (two.host, "left"), (four.host, "hand"),
        ]  # fmt: skip
        await reload_with(served, files, comfyui_name_1="hand")
        line = await served.logged(lambda line: line["level"] == "error")
        assert "hand is the name of instance 4 already" in line["message"]
        assert await served.end() == 0
    assert "Traceback" not in served.said


async def reload_with(served: Served, files: Files, **settings: Any) -> str:
    files.write(**settings)
    return await read_again(served)


async def test_the_only_instance_needs_a_restart(workers: Pair, tmp_path: Path) -> None:
    """It is passed everything as it comes: no other one can join it."""
    config = tmp_path / "proxy.toml"
    config.write_text("")
    logs = tmp_path / "logs"
    async with serving(workers[0].host, logs=logs, config=config) as served:
        config.write_text(f'comfyui_host_2 = "{workers[1].host}"')
        told = await read_again(served)
        assert told.endswith("COMFYUI_HOST_1… left as before: that needs a restart")
        assert await names_of(served) == [(workers[0].host, None)]


async def test_the_end_of_its_terminal_ends_it(workers: Pair, tmp_path: Path) -> None:
    """Whoever has started it by hand and closes the window does not leave it behind."""
    master, slave = pty.openpty()

    def own_terminal() -> None:
        listen_to_all()
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "comfy_proxy", "serve"),
        env={
            **os.environ,
            **{"COMFYUI_HOST_1": workers[0].host, "COMFYUI_HOST_2": workers[1].host},
            **{"PORT": "0", "LOG_DIRECTORY": str(tmp_path / "logs")},
        },
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=own_terminal,
    )
    os.close(slave)
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        while b"listening on" not in await process.stderr.readline():
            pass
        os.close(master)
        await process.communicate()
    assert process.returncode == 0
