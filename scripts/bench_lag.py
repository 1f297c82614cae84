"""By how much the proxy's event loop is late under a usual load, beside a loop that does nothing.

Two simulated instances (one process) with 6,000 node classes each: `/object_info` of 10 MB, of
which one class in a hundred says something else every ten seconds. Twenty clients with a socket
each post two prompts a second between them, each of which runs for 0.3 s, and read what they are
told; one client asks for `/object_info`, compressed, once a second.

A task in the proxy's loop sleeps for a millisecond over and over and measures by how much it wakes
too late; at the same time so does one in a process that does nothing else. Goal: p99.9 at most 20
ms above the idle loop's. Printed too are the prompts that were posted and the frames that came, and
the worst lag that `/health` told in the last minute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web
from bench_object_info import (
    CHANGE_S,
    REVISIONS,
    START_S,
    WARM_UP_S,
    Figures,
    large_object_info,
    waits,
    written,
)
from bench_processes import free_ports, process, wait_for
from bench_scale_instances import OBJECT_INFO, answer, serve

CLIENTS = 20
PROMPTS_A_SECOND = 2
PROMPT_S = 0.3
GOAL_MS = 20.0
HERE = Path(__file__).parent


@dataclass(kw_only=True)
class Load:
    """What the clients have done and seen."""

    posted: int = 0
    ended: int = 0
    frames: int = 0
    documents: int = 0
    worst_health_ms: float = 0.0


# --- the instances ----------------------------------------------------------------------------


def instances(ports: list[int]) -> None:
    """Those of bench-scale, with many more classes. A list of model files tells of a change."""
    own = b", " + json.dumps(OBJECT_INFO).encode()[1:]
    bodies = [large_object_info(number)[:-1] + own for number in range(REVISIONS)]
    begun = time.monotonic()

    async def changing(request: web.Request) -> web.StreamResponse:
        revision = int((time.monotonic() - begun) / CHANGE_S)
        match request.path:
            case "/object_info":
                text = bodies[revision % REVISIONS]
                return web.Response(body=text, content_type="application/json")
            case "/models":
                return web.json_response(["checkpoints"])
            case "/models/checkpoints":
                return web.json_response([f"model {revision}.safetensors"])
            case "/internal/files/input":
                return web.json_response([])
        return await answer(request)

    asyncio.run(serve(ports, changing))


# --- the clients ------------------------------------------------------------------------------


async def loaded(url: str, seconds: float) -> Load:
    """CLIENTS of ``url``, for so long."""
    load = Load()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http, asyncio.TaskGroup() as group:
        ids = [uuid.uuid4().hex for _ in range(CLIENTS)]
        readers = [group.create_task(listened(http, url, one, load)) for one in ids]
        asking = group.create_task(waits(f"{url}/object_info", "gzip", seconds))
        end, number = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            group.create_task(posted(http, url, ids[number % CLIENTS], load))
            number += 1
            await asyncio.sleep(1 / PROMPTS_A_SECOND)
        async with http.get(f"{url}/health") as told:
            event_loop = (await told.json())["event_loop"]
            load.worst_health_ms = event_loop["worst_lag_seconds"] * 1e3
        load.documents = len((await asking)[0])
        for reader in readers:
            reader.cancel()
    return load


async def posted(http: aiohttp.ClientSession, url: str, client_id: str, load: Load) -> None:
    inputs = {"seconds": PROMPT_S, "salt": uuid.uuid4().hex}
    graph = {"1": {"class_type": "TimedPass", "inputs": inputs}}
    body = {"prompt": graph, "client_id": client_id}
    async with http.post(f"{url}/prompt", json=body) as told:
        assert told.status == 200, await told.text()
    load.posted += 1


async def listened(http: aiohttp.ClientSession, url: str, client_id: str, load: Load) -> None:
    async with http.ws_connect(f"{url}/ws?clientId={client_id}", max_msg_size=0) as socket:
        async for frame in socket:
            load.frames += 1
            load.ended += '"execution_success"' in str(frame.data)


# --- the run ----------------------------------------------------------------------------------


def run(seconds: float, folder: Path) -> None:
    one, two, port = free_ports(3)
    results = {name: folder / f"{name}.json" for name in ("proxy", "idle")}
    settings = {
        "COMFYUI_HOST_1": f"127.0.0.1:{one}",
        "COMFYUI_HOST_2": f"127.0.0.1:{two}",
        "PORT": str(port),
        "LOG_DIRECTORY": str(folder / "logs"),
    }
    with ExitStack() as stack:
        command = (sys.executable, __file__, "instances", str(one), str(two))
        stack.enter_context(process(command, folder / "instances.log"))
        wait_for(one, "/system_stats", START_S)
        for name, environ in (("proxy", settings), ("idle", {})):
            measuring = (str(HERE / "bench_object_info.py"), name, str(seconds), str(results[name]))
            command = (sys.executable, *measuring)
            stack.enter_context(process(command, folder / f"{name}.log", **environ))
        wait_for(port, "/health/live", START_S)
        load = asyncio.run(loaded(f"http://127.0.0.1:{port}", seconds + WARM_UP_S))
        figures = {name: json.loads(written(path)) for name, path in results.items()}
    report(figures, load, seconds)


def report(figures: dict[str, Figures], load: Load, seconds: float) -> None:
    """A table in Markdown."""
    print("\n| loop | p50 ms | p99 ms | p99.9 ms | worst ms | CPU s | MB |")
    print("|---|---|---|---|---|---|---|")
    for name, one in figures.items():
        keys = ("p50_ms", "p99_ms", "p999_ms", "worst_ms")
        lags = " | ".join(f"{one[key]:.2f}" for key in keys)
        print(f"| {name} | {lags} | {one['cpu_s']:.1f} | {one['memory_mb']:.0f} |")
    above = figures["proxy"]["p999_ms"] - figures["idle"]["p999_ms"]
    print(f"\np99.9 is {above:.1f} ms above the idle loop's; goal: at most {GOAL_MS:g} ms")
    print(
        f"{load.posted} prompts posted, {load.ended} ended; {load.frames} frames to {CLIENTS}"
        f" sockets; {load.documents} answers of /object_info;"
        f" worst lag told by /health {load.worst_health_ms:.1f} ms"
    )
    print(f"{seconds:g} s; {os.cpu_count()} cores; load average {os.getloadavg()[0]:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("role", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    match options.role:
        case ["instances", *ports]:
            instances(list(map(int, ports)))
        case _:
            for _ in range(options.rounds):
                with tempfile.TemporaryDirectory() as folder:
                    run(options.seconds, Path(folder))


if __name__ == "__main__":
    main()
