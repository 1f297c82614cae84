"""What /health and /metrics cost beside an empty route, while 200 jobs run and an instance hangs.

A host application with one empty route of its own carries the proxy (`comfy_proxy.setup`), in one
process (uvloop). In each round 200 jobs are posted to it, and soon one of its two instances
(embedded workers) is stopped by SIGSTOP. From the first job to the last a process of its own asks
all routes in turn, in an order that changes, over one connection each, and times each answer.

Ratios are of the same round: the 99th percentile of a route's times by that of the empty one.
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
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
from aiohttp import web
from bench_forward import spread
from bench_jobs import PICTURE
from bench_processes import free_ports, wait_for
from loguru import logger
from timed_workflow import write_workflows

from comfy_proxy import setup
from comfy_proxy.embedded.process import WorkerProcess

EMPTY = "empty route"
PAUSE_S = 0.003
PROMETHEUS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
ROUTES = {
    EMPTY: ("/empty", "*/*"),
    "/health": ("/health", "*/*"),
    "/health/live": ("/health/live", "*/*"),
    "/health/ready": ("/health/ready", "*/*"),
    "/metrics, JSON": ("/metrics", "application/json"),
    "/metrics, Prometheus": ("/metrics", PROMETHEUS),
}
JOBS = 200
SECONDS = 0.1
FREEZE_AFTER = 20
"""So many jobs are done when the instance is stopped."""
Times = dict[str, list[float]]


# --- the host ---------------------------------------------------------------------------------


def host(port: int) -> None:
    """Settings come from the environment, as with `serve`."""
    import uvloop

    logger.remove()  # loguru's own handler would print every line, debug ones too

    async def empty(_request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_get("/empty", empty)
    setup(app)
    web.run_app(
        app,
        host="127.0.0.1",
        port=port,
        access_log=None,
        handler_cancellation=True,
        print=None,
        loop=uvloop.new_event_loop(),
    )


# --- who asks ---------------------------------------------------------------------------------


class Connection:
    """One route, over and over, with blocking calls only."""

    def __init__(self, port: int, path: str, accept: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n".encode()
        )
        self._buffer = bytearray(1 << 20)

    def ask(self) -> float:
        """Seconds until the answer was there, whole."""
        begun = time.perf_counter()
        self._socket.sendall(self._request)
        read = self._socket.recv_into(self._buffer)
        while (end := self._buffer.find(b"\r\n\r\n", 0, read)) < 0:
            read += self._more(read)
        head = bytes(self._buffer[:end]).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while read < end + 4 + length:
            read += self._more(read)
        return time.perf_counter() - begun

    def _more(self, read: int) -> int:
        size = self._socket.recv_into(memoryview(self._buffer)[read:])
        if size == 0:
            sys.exit("the host closed the connection")
        return size


def probe(port: int) -> None:
    """Asks until standard input ends, then prints the times by route."""
    connections = {name: Connection(port, *route) for name, route in ROUTES.items()}
    times: Times = {name: [] for name in ROUTES}
    names = list(ROUTES)
    os.set_blocking(sys.stdin.fileno(), False)
    while sys.stdin.buffer.raw.read(1) is None:
        random.shuffle(names)
        for name in names:
            times[name].append(connections[name].ask())
            time.sleep(random.uniform(0, 2 * PAUSE_S))
    print(json.dumps(times))


# --- the run ----------------------------------------------------------------------------------


class Run:
    """The host with two workers, and who posts jobs to it."""

    def __init__(self, port: int, victim: WorkerProcess, http: aiohttp.ClientSession) -> None:
        self._port = port
        self._url = f"http://127.0.0.1:{port}"
        self._victim = victim
        self._http = http

    async def round(self) -> Times:
        """What the probe has timed while the jobs ran."""
        prober = await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, "probe", str(self._port)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        done = await self._completed()
        ids = await asyncio.gather(*(self._submit() for _ in range(JOBS)))
        await self._until(done + FREEZE_AFTER)
        self._victim.freeze()
        # What was at the hanging instance takes COMFYUI_TIMEOUT to be tried elsewhere.
        await self._until(done + JOBS - 10)
        prober.stdin.close()
        output, _ = await prober.communicate()
        self._victim.thaw()
        for job_id in ids:
            async with self._http.get(f"{self._url}/api/jobs/{job_id}/result?wait=120") as answer:
                assert answer.status == 200, await answer.text()
        times: Times = json.loads(output)
        return times

    async def _submit(self) -> str:
        form = aiohttp.FormData({"seconds": str(SECONDS), "salt": str(random.getrandbits(31))})
        form.add_field("imageFile", PICTURE, filename="p.png")
        url = f"{self._url}/api/workflows/timed"
        async with self._http.post(url, data=form) as answer:
            assert answer.status == 202, await answer.text()
            return str((await answer.json())["job_id"])

    async def _completed(self) -> int:
        async with self._http.get(f"{self._url}/api/jobs/stats") as answer:
            return int((await answer.json())["by_status"]["completed"])

    async def _until(self, completed: int) -> None:
        while True:
            if await self._completed() >= completed:
                return
            await asyncio.sleep(0.2)


async def measure(rounds: int, folder: Path) -> list[Times]:
    (port,) = free_ports(1)
    workflows = folder / "workflows"
    write_workflows(workflows)
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(
                WorkerProcess(base_directory=folder / name, name=name, test_nodes=True)
            )
            for name in ("one", "two")
        ]
        environ = {
            "COMFYUI_HOST_1": workers[0].host,
            "COMFYUI_HOST_2": workers[1].host,
            "LOG_DIRECTORY": str(folder / "logs"),
            "WORKFLOW_DIRECTORY": str(workflows),
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, "host", str(port)), env=os.environ | environ
        )
        stack.push_async_callback(process.wait)
        stack.callback(process.terminate)
        await asyncio.to_thread(wait_for, port, "/health/ready")
        http = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )
        run = Run(port, workers[1], http)
        result = []
        for number in range(rounds):
            result.append(await run.round())
            print(f"round {number + 1}: " + _plain(result[-1]), flush=True)
        return result


def _plain(times: Mapping[str, Sequence[float]]) -> str:
    return ", ".join(f"{name} {p99_ms(one):.1f} ms" for name, one in times.items())


def p99_ms(times: Sequence[float]) -> float:
    return statistics.quantiles(times, n=100)[98] * 1000


def report(rounds: Sequence[Times]) -> None:
    """A table in Markdown: medians over the rounds (least–most)."""
    print("\n| route | p50 ms | p99 ms | p99 by that of the empty route |")
    print("|---|---|---|---|")
    for name in ROUTES:
        p50 = [statistics.median(times[name]) * 1000 for times in rounds]
        p99 = [p99_ms(times[name]) for times in rounds]
        ratios = [p99_ms(times[name]) / p99_ms(times[EMPTY]) for times in rounds]
        print(f"| {name} | {spread(p50, 2)} | {spread(p99, 1)} | {spread(ratios, 2)} |")
    asked = statistics.median(len(times[EMPTY]) for times in rounds)
    print(
        f"\n{len(rounds)} rounds of {JOBS} jobs of {SECONDS * 1000:g} ms, each route asked"
        f" {asked:g} times a round; {os.cpu_count()} cores; load average {os.getloadavg()[0]:.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("role", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        role, port = options.role
        {"host": host, "probe": probe}[role](int(port))
        return
    with tempfile.TemporaryDirectory() as folder:
        report(asyncio.run(measure(options.rounds, Path(folder))))


if __name__ == "__main__":
    main()
