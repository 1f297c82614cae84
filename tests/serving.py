"""``comfy-proxy serve`` in a process of its own, and what it has logged so far."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import aiohttp
from child_signals import listen_to_all
from kept_ports import kept_port

from comfy_proxy.tls import client_context

PATIENCE_S = 30.0
"""Before what does not come true fails the test."""
Line = dict[str, Any]


@dataclass(kw_only=True)
class Served:
    """A proxy that runs. ``said`` is what it wrote to its ``console``; there after :meth:`end`.

    ``http`` is a client of it, ``answers`` counts what that was answered by method and status.
    """

    url: str
    logs: Path
    http: aiohttp.ClientSession
    process: asyncio.subprocess.Process
    answers: Counter[tuple[str, str]]
    console: IO[bytes]
    said: str = ""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def lines(self, name: str = "combined.log") -> list[Line]:
        """The whole lines of a log file so far; each is JSON, or this fails."""
        return [json.loads(line) for line in self.text(name).split("\n")[:-1]]

    def text(self, name: str = "combined.log") -> str:
        path = self.logs / name
        return path.read_text(encoding="utf-8") if path.exists() else ""

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
        code = await self.process.wait()
        self.console.seek(0)
        self.said = self.console.read().decode()
        return code


@asynccontextmanager
async def serving(
    *hosts: str,
    logs: Path,
    config: Path | None = None,
    trusted: Path | None = None,
    **environ: str,
) -> AsyncIterator[Served]:
    """A proxy in front of ``hosts`` that is ready for jobs; ``environ`` by variables' names.

    ``trusted`` is its certificate, if it has one.
    """
    options = [] if config is None else ["--config", str(config)]
    own = {f"COMFYUI_HOST_{number}": host for number, host in enumerate(hosts, start=1)}
    own |= {"HOST": "127.0.0.1", "LOG_DIRECTORY": str(logs)}
    own |= {"HEALTH_CHECK_TIMEOUT": "2000"}  # the next check would be half a minute later
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COMFYUI_")}
    answers: Counter[tuple[str, str]] = Counter()

    async def answered(_: object, __: object, end: aiohttp.TraceRequestEndParams) -> None:
        answers[end.method, str(end.response.status)] += 1

    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(answered)
    async with AsyncExitStack() as stack:
        # Held until the end: the kernel gives a port that is merely free to others, too.
        port = int(environ.get("PORT", "0")) or stack.enter_context(kept_port())
        own["PORT"] = str(port)
        http = await stack.enter_async_context(
            aiohttp.ClientSession(
                trace_configs=[trace],
                connector=aiohttp.TCPConnector(
                    limit=0, ssl=True if trusted is None else client_context(trusted)
                ),
            )
        )
        # A pipe would want to be read all the time.
        console = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "comfy_proxy", "serve", *options),
            env=kept | own | environ,
            stdin=asyncio.subprocess.DEVNULL,
            stderr=console,
            preexec_fn=listen_to_all,
        )
        served = Served(
            url=f"{'https' if trusted else 'http'}://127.0.0.1:{port}",
            logs=logs,
            http=http,
            process=process,
            answers=answers,
            console=console,
        )
        stack.push_async_callback(served.end)
        async with asyncio.timeout(PATIENCE_S):
            await _until_ready(served)
        yield served


async def _until_ready(served: Served) -> None:
    while True:
        assert served.process.returncode is None, "the proxy has ended"
        with suppress(aiohttp.ClientConnectionError):
            async with served.http.get(f"{served.url}/health/ready") as answer:
                if answer.status == 200:
                    return
        await asyncio.sleep(0.02)
