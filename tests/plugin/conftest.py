"""The plugin's modules, and a stand-in for ComfyUI that has loaded it."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import pytest
from child_signals import listen_to_all
from kept_ports import kept_port
from serving import PATIENCE_S
from shipped_files import CONFIG, ROOT

PLUGIN = CONFIG / "comfyui-plugin"
PACKAGE = "comfyui_plugin"


@pytest.fixture(scope="session")
def plugin() -> Iterator[Callable[[str], Any]]:
    """``plugin("configuration")`` is that module, loaded without ComfyUI."""
    package = ModuleType(PACKAGE)
    package.__path__ = [str(PLUGIN)]
    sys.modules[PACKAGE] = package
    yield lambda name: importlib.import_module(f"{PACKAGE}.{name}")
    for name in [one for one in sys.modules if one.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


@dataclass(kw_only=True)
class StandIn:
    """A ComfyUI that runs. ``folder`` is the plugin's, ``lines`` what it has logged so far."""

    process: asyncio.subprocess.Process
    port: int
    folder: Path
    lines: list[str] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def read(self) -> None:
        async for line in self.process.stdout:
            self.lines.append(line.decode().rstrip())
            self._news.set()
        self.lines.append("(the end)")
        self._news.set()

    async def said(self, text: str, *, after: int = 0) -> str:
        """The first line with that text, as soon as it is there; not one of ``after``."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                self._news.clear()
                for line in self.lines[after:]:
                    if text in line:
                        return line
                assert self.lines[-1:] != ["(the end)"], "\n".join(self.lines)
                await self._news.wait()

    async def up(self, *, after: int = 0) -> str:
        """How ``call_on_start`` was called: as soon as it is."""
        return (await self.said("started ", after=after)).removeprefix("started ")

    async def proxy_pid(self, *, after: int = 0) -> int:
        """The process id of the proxy that listens."""
        line = await self.said("and the proxy (process ", after=after)
        return int(line.partition("(process ")[2].partition(")")[0])

    async def inner(self) -> str:
        """``host:port`` at which it listens behind the proxy."""
        line = await self.said("ComfyUI listens at ")
        return line.partition("listens at ")[2].partition(",")[0]

    async def end(self, number: signal.Signals = signal.SIGINT) -> int:
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(PATIENCE_S):
            return await self.process.wait()


Start = Callable[..., Any]


@pytest.fixture
async def start_comfyui(tmp_path: Path) -> AsyncIterator[Start]:
    """``await start_comfyui("--listen", …, COMFYUI_HOST_2=…)`` → a stand-in on its way up.

    ``toml`` is what stands in ``comfy_proxy.toml``; ``port`` is a port of the caller's choice.
    """
    folder = tmp_path / "custom_nodes" / "comfyui-proxy"
    folder.mkdir(parents=True)
    for file in PLUGIN.iterdir():
        if file.is_file():
            (folder / file.name).symlink_to(file)
    kept = {name: text for name, text in os.environ.items() if not name.startswith("COMFY")}
    async with AsyncExitStack() as stack:

        async def start(
            *arguments: str, toml: str | None = None, port: int = 0, **environ: str
        ) -> StandIn:
            if toml is not None:
                (folder / "comfy_proxy.toml").write_text(toml, encoding="utf-8")
            port = port or stack.enter_context(kept_port())
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(Path(__file__).parent / "comfyui.py")),
                *("--plugin", str(folder), "--base-directory", str(tmp_path / "base")),
                *("--port", str(port), *arguments),
                env={**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **environ},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                preexec_fn=listen_to_all,
            )
            comfyui = StandIn(process=process, port=port, folder=folder)
            reader = asyncio.create_task(comfyui.read())
            stack.push_async_callback(asyncio.wait, [reader])
            stack.push_async_callback(comfyui.end, signal.SIGKILL)
            return comfyui

        yield start


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session
