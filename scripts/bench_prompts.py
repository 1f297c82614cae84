"""Blind bursts through the proxy against a client that balances by hand, side by side in one run.

Two simulated instances (the embedded worker in processes of its own, one prompt at a time). In each
round 40 prompts of 200 ms and 40 mixed ones of 50 to 800 ms are posted to the proxy at once,
without looking at any queue, by one client and by ten; the direct client has a socket at each
instance and keeps two prompts in flight there. An end is an ``execution_success`` heard.

pair efficiency = (sum of service times / 2) / makespan
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
from bench_jobs import proxy_process

from comfy_proxy.embedded.process import WorkerProcess

PROMPTS = 40
CLIENTS = 10
UNIFORM = [0.2] * PROMPTS


def graph(seconds: float) -> dict[str, object]:
    empty = {"width": 8, "height": 8, "batch_size": 1, "color": random.getrandbits(24)}
    timed = {"image": ["1", 0], "seconds": seconds, "salt": random.getrandbits(31)}
    return {
        "1": {"class_type": "EmptyImage", "inputs": empty},
        "2": {"class_type": "TimedPass", "inputs": timed},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }


class Client:
    """One clientId at one server: posts, and hears the end of each of its prompts once."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self._id = uuid.uuid4().hex
        self._ended: dict[str, asyncio.Future[None]] = {}

    async def open(self) -> None:
        ws = await self._session.ws_connect(f"{self._url}/ws?clientId={self._id}", max_msg_size=0)
        self._reader = asyncio.create_task(self._read(ws))

    async def close(self) -> None:
        self._reader.cancel()
        await asyncio.wait([self._reader])

    async def _read(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        async for message in ws:
            if message.type is aiohttp.WSMsgType.TEXT:
                frame = json.loads(message.data)
                if frame["type"] == "execution_success":
                    self._ended[frame["data"]["prompt_id"]].set_result(None)

    async def run(self, seconds: float) -> None:
        prompt_id = str(uuid.uuid4())
        ended = self._ended[prompt_id] = asyncio.get_running_loop().create_future()
        body = {"prompt": graph(seconds), "prompt_id": prompt_id, "client_id": self._id}
        async with self._session.post(f"{self._url}/prompt", json=body) as response:
            assert response.status == 200, await response.text()
        await ended


async def blind(clients: Sequence[Client], times: Sequence[float]) -> None:
    """Everything is posted at once, each client its share."""
    await asyncio.gather(
        *(clients[number % len(clients)].run(seconds) for number, seconds in enumerate(times))
    )


async def by_hand(clients: Sequence[Client], times: Sequence[float]) -> None:
    """Two prompts in flight at each instance."""
    left = list(times)

    async def lane(client: Client) -> None:
        while left:
            await client.run(left.pop(0))

    await asyncio.gather(*(lane(client) for client in clients for _ in range(2)))


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=20261123)
    options = parser.parse_args()
    shuffler = random.Random(options.seed)
    bursts = {"uniform": UNIFORM, "mixed": [shuffler.uniform(0.05, 0.8) for _ in range(PROMPTS)]}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "templates").mkdir()
        workers = [
            await stack.enter_async_context(
                WorkerProcess(base_directory=folder / name, name=name, test_nodes=True)
            )
            for name in ("one", "two")
        ]
        urls = [worker.url for worker in workers]
        url = await stack.enter_async_context(proxy_process(urls, folder / "templates"))
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )
        ways = {
            "1 client": (blind, [Client(session, url)]),
            f"{CLIENTS} clients": (blind, [Client(session, url) for _ in range(CLIENTS)]),
            "by hand": (by_hand, [Client(session, url) for url in urls]),
        }
        for run, clients in ways.values():
            await asyncio.gather(*(client.open() for client in clients))
            await run(clients, [0.05] * 6)  # sockets open, everything loaded
        rows: dict[tuple[str, str], list[float]] = {}
        for number in range(1, options.rounds + 1):
            for kind, times in bursts.items():
                for way, (run, clients) in ways.items():
                    begun = time.perf_counter()
                    await run(clients, times)
                    efficiency = sum(times) / 2 / (time.perf_counter() - begun)
                    rows.setdefault((kind, way), []).append(efficiency)
                    print(f"round {number} {kind:8} {way:11} {efficiency:.3f}", flush=True)
        for (kind, way), found in rows.items():
            print(
                f"median {kind:8} {way:11} {statistics.median(found):.3f}"
                f"  (lowest {min(found):.3f})"
            )
        for _, clients in ways.values():
            await asyncio.gather(*(client.close() for client in clients))


if __name__ == "__main__":
    asyncio.run(main())
