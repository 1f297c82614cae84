"""The command as a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from child_signals import listen_to_all

PATIENCE_S = 60.0
"""Before what does not come true fails the test."""


@dataclass(frozen=True, kw_only=True)
class Said:
    code: int
    out: str
    err: str


@dataclass(kw_only=True)
class CommandLine:
    """``comfy-proxy`` with ``environ``, in ``folder``."""

    folder: Path
    environ: dict[str, str]

    async def start(self, *words: object, **environ: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "comfy_proxy", *map(str, words)),
            cwd=self.folder,
            env=self.environ | environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            preexec_fn=listen_to_all,
        )

    async def __call__(self, *words: object, **environ: str) -> Said:
        process = await self.start(*words, **environ)
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate()
        return Said(code=process.returncode or 0, out=out.decode(), err=err.decode())


def command_line(folder: Path, url: object) -> CommandLine:
    ours = ("COMFYUI_", "COMFY_PROXY_", "API_KEY")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    root = str(Path(__file__).parents[2])
    return CommandLine(
        folder=folder, environ={**kept, "COMFY_PROXY_URL": str(url), "PYTHONPATH": root}
    )
