"""``comfy-proxy serve`` in a process of its own, and what it has logged so far."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

PATIENCE_S = 30.0
"""Before what does not come true fails the test."""
Line = dict[str, Any]


@dataclass(kw_only=True)
class Served:
    """A proxy that runs. ``said`` is what it wrote to standard error; complete after :meth:`end`.

    ``http`` is a client of it.
    """

    url: str
    logs: Path
    http: aiohttp.ClientSession
    process: asyncio.subprocess.Process
    said: str = ""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def lines(self, name: str = "combined.log") -> list[Line]:
        """The whole lines of a log file so far; each is JSON, or this fails."""
        path = self.logs / name
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line) for line in text.split("\n")[:-1]]

    async def logged(self, condition: Callable[[Line], object], *, after: int = 0) -> Line:
        """The first line for which that holds, as soon as it is there; not one of ``after``."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for line in self.lines()[after:]:
                    if condition(line):
                        return line
                await asyncio.sleep(0.02)

    async def get(self, path: str, **headers: str) -> Any:
        """The JSON of an answer 200."""
        async with self.http.get(self.url + path, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def end(self) -> int:
        """Stop it as a service manager does; its exit code."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        _, said = await self.process.communicate()
        self.said = self.said or said.decode()
        return self.process.returncode or 0


@asynccontextmanager
async def serving(*hosts: str, logs: Path, **environ: str) -> AsyncIterator[Served]:
    """A proxy in front of ``hosts`` that is ready for jobs; ``environ`` by variables' names."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    own = {f"COMFYUI_HOST_{number}": host for number, host in enumerate(hosts, start=1)}
    own |= {"HOST": "127.0.0.1", "PORT": str(port), "LOG_DIRECTORY": str(logs)}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COMFYUI_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "comfy_proxy", "serve"),
        env=kept | own | environ,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession() as http:
        served = Served(url=url, logs=logs, http=http, process=process)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await _until_ready(served)
            yield served
        finally:
            await served.end()


async def _until_ready(served: Served) -> None:
    while True:
        assert served.process.returncode is None, "the proxy has ended"
        with suppress(aiohttp.ClientConnectionError):
            async with served.http.get(f"{served.url}/health/ready") as answer:
                if answer.status == 200:
                    return
        await asyncio.sleep(0.02)
