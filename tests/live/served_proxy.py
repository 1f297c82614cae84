"""`comfy-proxy serve` in a process of its own, as users run it, and how much memory it takes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

START_TIMEOUT_S = 30.0
_RESET_THE_PEAK = "5"  # proc(5), clear_refs


@dataclass(frozen=True, kw_only=True)
class ServedProxy:
    """A running proxy: its address and process id."""

    url: str
    pid: int

    def forget_peak(self) -> int:
        """Begin to measure :meth:`peak` anew; the resident bytes of this moment."""
        Path(f"/proc/{self.pid}/clear_refs").write_text(_RESET_THE_PEAK)
        return self.peak()

    def peak(self) -> int:
        """The most bytes that were resident at once."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        found = next(line.split() for line in lines if line.startswith("VmHWM:"))
        return int(found[1]) * 1024


@contextlib.asynccontextmanager
async def served(*instances: str, **settings: str) -> AsyncIterator[ServedProxy]:
    """Serve ``instances`` while the block runs; ``settings`` by their names in lower case."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COMFYUI_")}
    hosts = {f"COMFYUI_HOST_{number}": url for number, url in enumerate(instances, start=1)}
    changes = {name.upper(): value for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "comfy_proxy", "serve"),
        env=kept | hosts | {"HOST": "127.0.0.1", "PORT": str(port), "LOG_LEVEL": "error"} | changes,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        async with asyncio.timeout(START_TIMEOUT_S):
            await _until_healthy(url, len(instances), process)
        yield ServedProxy(url=url, pid=process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _until_healthy(url: str, count: int, process: asyncio.subprocess.Process) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            assert process.returncode is None, "the proxy has ended"
            with contextlib.suppress(aiohttp.ClientConnectionError):
                async with session.get(f"{url}/health") as answer:
                    if (await answer.json())["comfyui_instances"]["healthy"] == count:
                        return
            await asyncio.sleep(0.05)
