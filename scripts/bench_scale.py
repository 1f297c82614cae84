"""What grows with the number of instances: 2 to 300 simulated ones, one `comfy-proxy serve`.

A hundred instances are one process (bench_scale_instances.py). With each number of them:

place: PROMPTS prompts one after the other, posted by a client with a socket; from the request to
the answer. status: prompts are put past the proxy at instances, each of which changes the sum that
all CLIENTS sockets are told twice. Then /queue, /health and /metrics, one after the other. idle:
nothing at all, but checks (every 30 s), ticks and open sockets. Milliseconds are the client's, CPU
is the proxy's. sockets are all that the proxy has open, those of clients included.

usage: bench_scale.py [--instances 2,20,100,300] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from bench_load import cpu_seconds
from bench_processes import free_ports, process

HERE = Path(__file__).parent
IN_ONE_PROCESS = 100
PROMPTS, CLIENTS, ASKED, CHANGES = 300, 20, 100, 100
PROMPT_S = 0.05
IDLE_S = 10.0
START_TIMEOUT_S = 60


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one of many equal steps."""

    p50_ms: float
    p99_ms: float
    cpu_ms: float

    def __str__(self) -> str:
        return f"{self.p50_ms:7.2f} {self.p99_ms:7.2f} {self.cpu_ms:7.2f}"


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """The one that is measured."""

    url: str
    pid: int
    instances: tuple[str, ...]

    def sockets(self) -> int:
        links = Path(f"/proc/{self.pid}/fd").iterdir()
        return sum(os.readlink(one).startswith("socket:") for one in links)

    def rss_mb(self) -> float:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


@contextmanager
def running(count: int, folder: Path) -> Iterator[Proxy]:
    """``count`` instances and the proxy in front of them."""
    *ports, own = free_ports(count + 1)
    with ExitStack() as stack:
        for at in range(0, count, IN_ONE_PROCESS):
            some = map(str, ports[at : at + IN_ONE_PROCESS])
            command = (sys.executable, str(HERE / "bench_scale_instances.py"), *some)
            stack.enter_context(process(command, folder / f"instances-{at}.log"))
        environ = {f"COMFYUI_HOST_{n}": f"127.0.0.1:{p}" for n, p in enumerate(ports, 1)}
        command = (sys.executable, "-m", "comfy_proxy", "serve")
        environ |= {"PORT": str(own), "LOG_DIRECTORY": str(folder / "logs")}
        pid = stack.enter_context(process(command, folder / "proxy.log", **environ))
        instances = tuple(f"http://127.0.0.1:{port}" for port in ports)
        yield Proxy(url=f"http://127.0.0.1:{own}", pid=pid, instances=instances)


async def healthy(session: aiohttp.ClientSession, proxy: Proxy) -> None:
    """Until all are. Exits with a message if they never are."""
    last = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < last:
        try:
            async with session.get(f"{proxy.url}/health") as answer:
                if (await answer.json())["comfyui_instances"]["unhealthy"] == 0:
                    return
        except aiohttp.ClientConnectionError:
            pass
        await asyncio.sleep(0.1)
    sys.exit("the instances do not become healthy")


async def cost(proxy: Proxy, times: int, step: Callable[[], Awaitable[Any]]) -> Cost:
    """Of ``step``, one after the other; what it has begun is part of its CPU time."""
    before, taken = cpu_seconds(proxy.pid), []
    for _ in range(times):
        begun = time.perf_counter()
        await step()
        taken.append((time.perf_counter() - begun) * 1000)
    taken.sort()
    return Cost(
        p50_ms=statistics.median(taken),
        p99_ms=taken[int(len(taken) * 0.99)],
        cpu_ms=(cpu_seconds(proxy.pid) - before) * 1000 / times,
    )


@asynccontextmanager
async def clients(session: aiohttp.ClientSession, proxy: Proxy) -> AsyncIterator[str]:
    """CLIENTS sockets that are read; the id of one of them."""
    ids = [uuid.uuid4().hex for _ in range(CLIENTS)]
    async with AsyncExitStack() as stack:
        readers = []
        for client_id in ids:
            connect = session.ws_connect(f"{proxy.url}/ws?clientId={client_id}", max_msg_size=0)
            readers.append(asyncio.create_task(_read(await stack.enter_async_context(connect))))
        yield ids[0]
        for reader in readers:
            reader.cancel()


async def _read(socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
    async for _ in socket:
        pass


def graph() -> dict[str, Any]:
    inputs = {"seconds": PROMPT_S, "salt": uuid.uuid4().hex}
    return {"1": {"class_type": "TimedPass", "inputs": inputs}}


async def measure(proxy: Proxy) -> dict[str, Cost | float]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await healthy(session, proxy)

        async def post(url: str, **fields: str) -> None:
            async with session.post(f"{url}/prompt", json={"prompt": graph(), **fields}) as answer:
                assert answer.status == 200, await answer.text()
                await answer.read()

        async def get(path: str) -> None:
            async with session.get(f"{proxy.url}{path}") as answer:
                assert answer.status == 200, await answer.text()
                await answer.read()

        async with clients(session, proxy) as client_id:
            for _ in range(2 * len(proxy.instances)):  # its socket at each is there
                await post(proxy.url, client_id=client_id)
            found: dict[str, Cost | float] = {}
            found["place"] = await cost(
                proxy, PROMPTS, lambda: post(proxy.url, client_id=client_id)
            )
            await asyncio.sleep(2.0)  # what still runs ends, and is no part of what follows
            turn = iter(proxy.instances * CHANGES)
            found["status"] = await cost(proxy, CHANGES, lambda: post(next(turn)))
            await asyncio.sleep(1.0)
            for path in ("/queue", "/health", "/metrics"):
                found[path] = await cost(proxy, ASKED, lambda path=path: get(path))
            before = cpu_seconds(proxy.pid)
            await asyncio.sleep(IDLE_S)
            found["idle CPU %"] = (cpu_seconds(proxy.pid) - before) / IDLE_S * 100
            found["sockets"], found["MB"] = proxy.sockets(), proxy.rss_mb()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--instances", default="2,20,100,300")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    counts = [int(one) for one in options.instances.split(",")]
    print("each: p50 ms, p99 ms, CPU ms of the proxy; the median of the rounds by p99")
    for count in counts:
        rounds = []
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as folder, running(count, Path(folder)) as proxy:
                rounds.append(asyncio.run(measure(proxy)))
        for name in rounds[0]:
            values = [one[name] for one in rounds]
            key = (lambda v: v.p99_ms) if isinstance(values[0], Cost) else float
            middle = sorted(values, key=key)[len(values) // 2]
            shown = str(middle) if isinstance(middle, Cost) else f"{middle:7.1f}"
            print(f"{count:4} instances  {name:<12} {shown}", flush=True)


if __name__ == "__main__":
    main()
