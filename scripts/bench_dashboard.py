"""What one open dashboard costs the proxy, while jobs go through it at a steady rate.

Two embedded workers in processes of their own. Stretches without and with a viewer take turns
(ABBA, so that a machine that slows down wrongs neither); jobs begin at a fixed rate all the time,
take a second each, report progress every 50 ms and show one preview. CPU is the proxy process's
own, user and system, as the kernel counts it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp

from comfy_proxy.embedded.process import WorkerProcess

PHOTOGRAPH = Path(__file__).parents[1] / "comfy_proxy/embedded/pictures/rocket.jpg"
JOB_S = 1.0
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_GRAPH = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
    "2": {"class_type": "TimedPass", "inputs": {"image": ["1", 0], "seconds": JOB_S, "salt": 0}},
    "3": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}},
}
_BIND = {"1.image": "$picture", "2.salt": "$salt"}
_VARIANT = {"name": "only", "graph": _GRAPH, "bind": _BIND, "output": ["2", 0]}
TEMPLATE = {
    "parameters": {"salt": {"type": "integer", "default": 0}},
    "scale": 1,
    "variants": [_VARIANT],
}


@asynccontextmanager
async def proxy_process(urls: Sequence[str], folder: Path) -> AsyncIterator[tuple[str, int]]:
    """``comfy-proxy serve``; its URL and process id."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    hosts = {f"COMFYUI_HOST_{number}": url for number, url in enumerate(urls, 1)}
    logs = {"LOG_DIRECTORY": str(folder / "logs"), "WORKFLOW_DIRECTORY": str(folder / "workflows")}
    with (folder / "proxy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "comfy_proxy", "serve"),
            env=os.environ | hosts | logs | {"PORT": str(port)},
            stdout=log,
            stderr=log,
        )
        try:
            await asyncio.wait_for(_ready(f"http://127.0.0.1:{port}"), 60)
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()
            await process.wait()


async def _ready(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            with suppress(aiohttp.ClientConnectionError):
                async with session.get(f"{url}/health/ready") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.1)


async def submit_steadily(session: aiohttp.ClientSession, url: str, a_minute: int) -> None:
    """A job every so often, whatever becomes of the earlier ones; until cancelled."""
    picture = PHOTOGRAPH.read_bytes()
    due = time.monotonic()
    while True:
        form = aiohttp.FormData({"salt": str(random.getrandbits(31))})
        form.add_field("image", picture, filename="rocket.jpg")
        async with session.post(f"{url}/api/workflows/showing", data=form) as answer:
            assert answer.status == 202, await answer.text()
        due += 60 / a_minute
        await asyncio.sleep(max(0, due - time.monotonic()))


async def look(session: aiohttp.ClientSession, url: str, seen: list[bytes]) -> None:
    """An open page that reads what comes; until cancelled."""
    timeout = aiohttp.ClientTimeout(total=None)
    async with session.get(f"{url}/dashboard/events", timeout=timeout) as answer:
        while chunk := await answer.content.readany():
            seen.append(chunk)


def cpu_s(pid: int) -> float:
    """CPU that the process has used, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


async def stretch(pid: int, seconds: float) -> float:
    """Percent of a core over the next ``seconds``."""
    begun, used = time.monotonic(), cpu_s(pid)
    await asyncio.sleep(seconds)
    return 100 * (cpu_s(pid) - used) / (time.monotonic() - begun)


async def measure(session: aiohttp.ClientSession, url: str, pid: int, options: argparse.Namespace):
    shares: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * options.rounds):
        looked_at = number % 4 in (1, 2)
        seen: list[bytes] = []
        viewer = asyncio.create_task(look(session, url, seen)) if looked_at else None
        shares[looked_at].append(await stretch(pid, options.seconds))
        if viewer is not None:
            viewer.cancel()
            await asyncio.wait([viewer])
        events = b"".join(seen)
        print(
            f"{'a viewer ' if looked_at else 'no viewer'}  {shares[looked_at][-1]:5.2f} % of a core"
            f"  {events.count(b'event: state') / options.seconds:.2f} states/s"
            f"  {len(events) / options.seconds / 1000:.0f} kB/s"
        )
    without, with_viewer = (statistics.mean(shares[looked_at]) for looked_at in (False, True))
    print(f"mean: without {without:.2f} %, with {with_viewer:.2f} %, ", end="")
    print(f"the viewer costs {with_viewer - without:.2f} % of a core")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4, help="of one stretch each")
    parser.add_argument("--seconds", type=float, default=60, help="of a stretch")
    parser.add_argument("--jobs", type=int, default=100, help="a minute")
    options = parser.parse_args()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "workflows").mkdir()
        (folder / "workflows" / "showing.json").write_text(json.dumps(TEMPLATE))
        workers = [
            WorkerProcess(base_directory=folder / name, name=name, test_nodes=True)
            for name in ("one", "two")
        ]
        for worker in workers:
            await stack.enter_async_context(worker)
        urls = [worker.url for worker in workers]
        url, pid = await stack.enter_async_context(proxy_process(urls, folder))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        jobs = asyncio.create_task(submit_steadily(session, url, options.jobs))
        stack.callback(jobs.cancel)
        await asyncio.sleep(5)  # sockets open, everything loaded
        await measure(session, url, pid, options)
        assert not jobs.done(), jobs.exception()


if __name__ == "__main__":
    asyncio.run(main())
