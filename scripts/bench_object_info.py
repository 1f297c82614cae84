"""How long the proxy's event loop stands still while `/object_info` of 10 MB changes.

Two instances (one process) have 6,000 classes each, of which one in a hundred, or `--all` of them,
says something else every ten seconds; a list of model files tells of it. `comfy-proxy serve` is in
front of them, in a process of its own, and two clients ask it for `/object_info` once a second, one
of them compressed. A task in its loop sleeps for a millisecond over and over and measures by how
much it wakes too late; so does one in a process that does nothing else, on the same machine.

Printed are the lags, the proxy's memory and CPU time, what a full garbage collection takes, and how
long a client waited for an answer.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from bench_processes import free_ports, wait_for

from comfy_proxy import serve
from comfy_proxy.app import create_app
from comfy_proxy.large_blocks import give_back_large_blocks
from comfy_proxy.settings import load_settings

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from large_object_info import large_object_info

CHANGE_S = 10.0
WARM_UP_S = 8.0
"""Seconds after the start that are not measured: the first answers are read then."""
START_S = 30.0
REVISIONS = 4
Figures = dict[str, Any]


# --- the instances ----------------------------------------------------------------------------


def instances(ports: list[int], *, change_all: bool) -> None:
    """Both list another model file every CHANGE_S, and all else is empty."""

    def body(revision: int) -> bytes:
        text = large_object_info(revision)
        return text.replace(b"x" * 10, b"x%09d" % revision) if change_all else text

    begun, bodies = time.monotonic(), [body(number) for number in range(REVISIONS)]
    stats = {"system": {"os": "posix"}, "devices": []}
    queue: dict[str, list[Any]] = {"queue_running": [], "queue_pending": []}
    answers: dict[str, Callable[[int], Any]] = {
        "/system_stats": lambda revision: stats,
        "/queue": lambda revision: queue,
        "/models": lambda revision: ["checkpoints"],
        "/models/checkpoints": lambda revision: [f"model {revision}.safetensors"],
        "/internal/files/input": lambda revision: [],
    }

    async def answer(request: web.Request) -> web.Response:
        revision = int((time.monotonic() - begun) / CHANGE_S)
        if request.path == "/object_info":
            text = bodies[revision % REVISIONS]
            return web.Response(body=text, content_type="application/json")
        known = answers.get(request.path)
        return web.json_response({} if known is None else known(revision))

    async def run() -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        for port in ports:
            await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()

    asyncio.run(run())


# --- what is measured -------------------------------------------------------------------------


async def lags(seconds: float) -> list[float]:
    """By how much a task wakes too late, in seconds, each millisecond anew."""
    found: list[float] = []
    end = time.perf_counter() + seconds
    while (asleep := time.perf_counter()) < end:
        await asyncio.sleep(0.001)
        found.append(time.perf_counter() - asleep - 0.001)
    return found


async def measured(seconds: float, result: Path) -> None:
    await asyncio.sleep(WARM_UP_S)
    cpu_s = time.process_time()
    found = await lags(seconds)
    figures = _figures(found) | {"cpu_s": time.process_time() - cpu_s}
    figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures["memory_mb"] = _memory_mb()
    begun = time.perf_counter()
    gc.collect()
    figures["collection_ms"] = (time.perf_counter() - begun) * 1e3
    await asyncio.to_thread(result.write_text, json.dumps(figures))


def _figures(found: list[float]) -> Figures:
    cuts = statistics.quantiles(found, n=1000)
    return {
        "p50_ms": cuts[499] * 1e3,
        "p99_ms": cuts[989] * 1e3,
        "p999_ms": cuts[998] * 1e3,
        "worst_ms": max(found) * 1e3,
    }


def _memory_mb() -> float:
    """Physical memory of this process now; NaN where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def proxy(seconds: float, result: Path) -> None:
    """`comfy-proxy serve` with the measuring task in its loop."""
    give_back_large_blocks()
    settings = load_settings(os.environ)
    app = create_app(settings)
    measuring: list[asyncio.Task[None]] = []

    async def begin(_: web.Application) -> None:
        measuring.append(asyncio.create_task(measured(seconds, result)))

    app.on_startup.extend([serve.freeze, begin])
    serve.run(app, settings)


async def waits(url: str, coding: str, seconds: float) -> tuple[list[float], int]:
    """The seconds that a client waited for each answer, and how many different ones it saw."""
    found, etags, end = [], set(), time.monotonic() + seconds
    async with aiohttp.ClientSession(auto_decompress=False) as http:
        while time.monotonic() < end:
            begun = time.perf_counter()
            async with http.get(url, headers={"Accept-Encoding": coding}) as answer:
                await answer.read()
                etags.add(answer.headers.get("ETag"))
            found.append(time.perf_counter() - begun)
            await asyncio.sleep(1)
    return found, len(etags)


# --- the run ----------------------------------------------------------------------------------


def run(seconds: float, folder: Path, *, change_all: bool) -> None:
    one, two, port = free_ports(3)
    results = {name: folder / f"{name}.json" for name in ("proxy", "idle")}
    settings = {
        "COMFYUI_HOST_1": f"127.0.0.1:{one}",
        "COMFYUI_HOST_2": f"127.0.0.1:{two}",
        "PORT": str(port),
        "LOG_DIRECTORY": str(folder / "logs"),
    }
    with ExitStack() as stack:

        def begin(role: str, *values: object, **environ: str) -> None:
            command = [sys.executable, __file__, role, *map(str, values)]
            log = stack.enter_context((folder / f"{role}.log").open("wb"))
            running = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environ)
            stack.callback(running.wait)
            stack.callback(running.terminate)

        begin("instances", one, two, *(["all"] if change_all else []))
        wait_for(one, "/system_stats", START_S)
        begin("proxy", seconds, results["proxy"], **settings)
        begin("idle", seconds, results["idle"])
        wait_for(port, "/health/live", START_S)
        asked = asyncio.run(_asked(f"http://127.0.0.1:{port}/object_info", seconds + WARM_UP_S))
        figures = {name: json.loads(written(path)) for name, path in results.items()}
    report(figures, list(asked), seconds)


async def _asked(url: str, seconds: float) -> Iterator[tuple[list[float], int]]:
    return iter(await asyncio.gather(*(waits(url, one, seconds) for one in ("gzip", "identity"))))


def written(path: Path) -> str:
    last = time.monotonic() + START_S
    while time.monotonic() < last:
        if path.exists() and (text := path.read_text()):
            return text
        time.sleep(0.2)
    sys.exit(f"{path.stem} has measured nothing")


def report(figures: dict[str, Figures], asked: list[tuple[list[float], int]], s: float) -> None:
    """A table in Markdown."""
    print("\n| loop | p99 ms | p99.9 ms | worst ms | CPU s | MB | peak MB | full collection ms |")
    print("|---|---|---|---|---|---|---|---|")
    for name, one in figures.items():
        values = " | ".join(f"{one[key]:.1f}" for key in ("p99_ms", "p999_ms", "worst_ms", "cpu_s"))
        memory = f"{one['memory_mb']:.0f} | {one['peak_mb']:.0f} | {one['collection_ms']:.1f}"
        print(f"| {name} | {values} | {memory} |")
    for coding, (found, versions) in zip(("gzip", "as it is"), asked, strict=True):
        print(
            f"\n/object_info, {coding}: {len(found)} answers, {versions} different ones; median"
            f" {statistics.median(found):.2f} s, worst {max(found):.2f} s"
        )
    print(f"\n{s:g} s; {os.cpu_count()} cores; load average {os.getloadavg()[0]:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--all", action="store_true", help="all classes change")
    parser.add_argument("role", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    match options.role:
        case ["instances", one, two, *rest]:
            instances([int(one), int(two)], change_all=bool(rest))
        case ["proxy", seconds, result]:
            proxy(float(seconds), Path(result))
        case ["idle", seconds, result]:
            asyncio.run(measured(float(seconds), Path(result)))
        case _:
            with tempfile.TemporaryDirectory() as folder:
                run(options.seconds, Path(folder), change_all=options.all)


if __name__ == "__main__":
    main()
