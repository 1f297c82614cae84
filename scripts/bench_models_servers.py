"""The processes of bench-models: simulated instances, and the proxy of this or another checkout."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
from bench_models_work import MODEL_BYTES, Costs, Scenario, file_of, template

from comfy_proxy.embedded.process import WorkerProcess
from comfy_proxy.embedded.simulated_gpu import SimulatedModels

READY_S = 30.0  # seconds for a proxy to see that its instances are there


@asynccontextmanager
async def instances(scenario: Scenario, costs: Costs, folder: Path) -> AsyncIterator[list[str]]:
    """The URLs of fresh instances of a scenario, which end with the block."""
    async with AsyncExitStack() as stack:
        urls = []
        for number, speed in enumerate(scenario.speeds):
            models = SimulatedModels(
                files=dict.fromkeys(map(file_of, scenario.models), MODEL_BYTES),
                vram=scenario.fit * MODEL_BYTES,
                load_s=costs.load_s,
                speed=speed,
            )
            name = f"instance {number + 1}"
            worker = WorkerProcess(base_directory=folder / name, name=name, simulated_models=models)
            urls.append((await stack.enter_async_context(worker)).url)
        yield urls


@asynccontextmanager
async def proxy(
    code: Path, urls: Sequence[str], scenario: Scenario, costs: Costs, folder: Path
) -> AsyncIterator[str]:
    """The URL of a proxy in front of them, of the checkout at `code`, which ends with the block."""
    templates = folder / "templates"
    templates.mkdir(parents=True)
    if scenario.jobs:
        for model in scenario.models:
            path = templates / f"{model}.json"
            path.write_text(json.dumps(template(model, costs.run_s)))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {
        **os.environ,
        **{f"COMFYUI_HOST_{number}": url for number, url in enumerate(urls, 1)},
        "PYTHONPATH": str(code),
        "PORT": str(port),
        "LOG_LEVEL": "warn",
        "LOG_DIRECTORY": str(folder / "logs"),
        "WORKFLOW_DIRECTORY": str(templates),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "comfy_proxy", "serve"), env=environ, cwd=code
    )
    try:
        await _ready(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _ready(url: str, process: asyncio.subprocess.Process) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(READY_S):
        while process.returncode is None:
            try:
                async with session.get(f"{url}/health/ready") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.1)
    raise RuntimeError(f"the proxy ended with {process.returncode} before it was ready")


async def loads_of(session: aiohttp.ClientSession, urls: Sequence[str]) -> int:
    """Models that were loaded at these instances since their start."""
    found = 0
    for url in urls:
        async with session.get(f"{url}/system_stats") as response:
            found += len((await response.json())["system"]["simulated_loads"])
    return found


async def wait_until_idle(session: aiohttp.ClientSession, urls: Sequence[str]) -> None:
    """Until nothing waits or runs at any of them."""
    for url in urls:
        while True:
            async with session.get(f"{url}/prompt") as response:
                info = await response.json()
            if info["exec_info"]["queue_remaining"] == 0:
                break
            await asyncio.sleep(0.02)


async def histories(session: aiohttp.ClientSession, urls: Sequence[str]) -> list[str]:
    """The ids of all prompts that came to their end, each as often as it did."""
    found: list[str] = []
    for url in urls:
        async with session.get(f"{url}/history") as response:
            found += await response.json()
    return found
