"""The processes of a run: the real ComfyUI servers, one of which is killed, and our proxy."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

TIMEOUT_S = 60.0
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 30.0


def get(url: str) -> Any:
    """The JSON at ``url``. Raises OSError, also for an answer that is an error."""
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.load(response)


def wait_for(condition: Callable[[], T], timeout_s: float = TIMEOUT_S) -> T:
    """The first true answer of ``condition``. Raises TimeoutError; OSError counts as not yet."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if answer := condition():
                return answer
        except OSError:
            pass
        time.sleep(0.1)
    raise TimeoutError(f"nothing true within {timeout_s} s")


class Server(Protocol):
    """What the proxy is told of an instance."""

    @property
    def url(self) -> str: ...


@dataclass(frozen=True)
class LiveServer:
    """One ComfyUI of ``scripts/live-comfyui``: ``start`` and ``server.pid`` in ``directory``."""

    url: str
    directory: Path

    def has_run(self, prompt_id: str) -> bool:
        return prompt_id in get(f"{self.url}/history/{prompt_id}")

    def become_idle(self) -> None:
        """Whatever an earlier test has left there ends."""
        for path, body in (("/queue", b'{"clear": true}'), ("/interrupt", b"")):
            urllib.request.urlopen(self.url + path, body, timeout=10).close()
        wait_for(lambda: get(f"{self.url}/prompt")["exec_info"]["queue_remaining"] == 0)

    def kill(self) -> None:
        """As a crash does it: nothing is said to anybody."""
        os.kill(int((self.directory / "server.pid").read_text()), signal.SIGKILL)

    def start(self) -> None:
        """Start it again, in a session of its own, and wait until it answers."""
        nothing = subprocess.DEVNULL
        command = ["setsid", "--fork", str(self.directory / "start")]
        subprocess.run(command, stdin=nothing, stdout=nothing, stderr=nothing, check=True)
        wait_for(lambda: get(f"{self.url}/system_stats"), START_TIMEOUT_S)

    def forget_settings(self) -> None:
        """As if no page had ever been opened."""
        (self.directory / "user" / "default" / "comfy.settings.json").unlink(missing_ok=True)

    def user_file(self, name: str) -> Any:
        """A JSON file of the user; None if there is none."""
        path = self.directory / "user" / "default" / name
        return json.loads(path.read_text()) if path.exists() else None


@contextmanager
def proxy(servers: Sequence[Server], directory: Path, *, port: int = 0) -> Iterator[str]:
    """``comfy-proxy serve`` before the servers; its URL. Its words are in ``directory``.

    ``port`` 0 takes a free one.
    """
    if not port:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
    hosts = {f"COMFYUI_HOST_{n}": server.url for n, server in enumerate(servers, start=1)}
    logs = {"LOG_DIRECTORY": str(directory), "LOG_LEVEL": "debug"}
    command = [sys.executable, "-m", "comfy_proxy", "serve"]
    url = f"http://127.0.0.1:{port}"
    with (directory / "proxy.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=os.environ | hosts | logs | {"HOST": "127.0.0.1", "PORT": str(port)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_for(lambda: process.poll() is not None or get(f"{url}/health/ready"))
            assert process.poll() is None, (directory / "proxy.log").read_text()
            yield url
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
