"""Blind bursts through the proxy against a client that balances by hand, side by side in one run.

Two simulated instances (the embedded worker in processes of its own, one prompt at a time), or with
`--live URL1,URL2` two real ones that have the nodes of tests/live/custom_nodes. In each round 40
prompts of 200 ms and 40 mixed ones of 50 to 800 ms are posted to the proxy at once, without looking
at any queue, by one client and by ten; the direct client has a socket at each instance and keeps
two prompts in flight there. An end is an `execution_success` heard. The times are drawn with a
fixed seed; salts are not, or a second run would be served from the caches.

pair efficiency = (sum of service times / 2) / makespan
ratio = pair efficiency / the direct client's in the same round

At the end every prompt must have begun and ended once by its client's events, and be in the history
of exactly one instance.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
from bench_jobs import proxy_process

from comfy_proxy.embedded.process import WorkerProcess

PROMPTS = 40
CLIENTS = 10
UNIFORM = [0.2] * PROMPTS
DIRECT = "by hand"
GOALS = {"uniform": 0.97, "mixed": 0.95}
"""Of the pair efficiency on simulated instances; a ratio on real ones has the first for both."""


def graph(seconds: float) -> dict[str, object]:
    empty = {"width": 8, "height": 8, "batch_size": 1, "color": random.getrandbits(24)}
    timed = {"image": ["1", 0], "seconds": seconds, "salt": random.getrandbits(31)}
    return {
        "1": {"class_type": "EmptyImage", "inputs": empty},
        "2": {"class_type": "TimedPass", "inputs": timed},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }


class Client:
    """One clientId at one server: posts, and hears how each of its prompts begins and ends."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.heard: Counter[tuple[str, str]] = Counter()
        self.posted: list[str] = []
        self._session = session
        self._url = url
        self._id = uuid.uuid4().hex
        self._ended: dict[str, asyncio.Event] = {}

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
                if frame["type"].startswith("execution_"):
                    prompt_id = frame["data"]["prompt_id"]
                    self.heard[frame["type"], prompt_id] += 1
                    if frame["type"] == "execution_success":
                        self._ended[prompt_id].set()

    async def run(self, seconds: float) -> None:
        prompt_id = str(uuid.uuid4())
        ended = self._ended[prompt_id] = asyncio.Event()
        body = {"prompt": graph(seconds), "prompt_id": prompt_id, "client_id": self._id}
        async with self._session.post(f"{self._url}/prompt", json=body) as response:
            assert response.status == 200, await response.text()
        self.posted.append(prompt_id)
        await ended.wait()

    def not_once(self) -> list[str]:
        """Its prompts that did not begin and end once."""
        kinds = ("execution_start", "execution_success")
        return [one for one in self.posted if [self.heard[kind, one] for kind in kinds] != [1, 1]]


Way = Callable[[Sequence[Client], Sequence[float]], Awaitable[None]]
Ways = Mapping[str, tuple[Way, Sequence[Client]]]


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


@asynccontextmanager
async def instances(live: Sequence[str] | None, folder: Path) -> AsyncIterator[list[str]]:
    """The URLs of the real pair, or of a simulated one that ends with the block."""
    if live is not None:
        yield list(live)
        return
    async with AsyncExitStack() as stack:
        workers = [
            WorkerProcess(base_directory=folder / name, name=name, test_nodes=True)
            for name in ("one", "two")
        ]
        yield [(await stack.enter_async_context(worker)).url for worker in workers]


@asynccontextmanager
async def all_ways(url: str, urls: Sequence[str]) -> AsyncIterator[Ways]:
    """The clients of the proxy and the direct ones, connected and warm."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        ways: Ways = {
            "1 client": (blind, [Client(session, url)]),
            f"{CLIENTS} clients": (blind, [Client(session, url) for _ in range(CLIENTS)]),
            DIRECT: (by_hand, [Client(session, url) for url in urls]),
        }
        for run, clients in ways.values():
            await asyncio.gather(*(client.open() for client in clients))
            await run(clients, [0.05] * 6)  # sockets open, everything loaded
        yield ways
        for _, clients in ways.values():
            await asyncio.gather(*(client.close() for client in clients))


async def measure(ways: Ways, rounds: int, seed: int) -> dict[tuple[str, str], list[float]]:
    """Pair efficiencies by kind of burst and way, one a round; each round begins elsewhere."""
    shuffler = random.Random(seed)
    bursts = {"uniform": UNIFORM, "mixed": [shuffler.uniform(0.05, 0.8) for _ in range(PROMPTS)]}
    rows: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        for kind, times in bursts.items():
            names = list(ways)
            turn = number % len(names)
            for way in names[turn:] + names[:turn]:
                run, clients = ways[way]
                begun = time.perf_counter()
                await run(clients, times)
                efficiency = sum(times) / 2 / (time.perf_counter() - begun)
                rows.setdefault((kind, way), []).append(efficiency)
                print(f"round {number + 1} {kind:8} {way:11} {efficiency:.3f}", flush=True)
    return rows


def report(rows: Mapping[tuple[str, str], Sequence[float]], *, live: bool) -> None:
    for (kind, way), found in sorted(rows.items(), reverse=True):
        line = f"median {kind:8} {way:11} {statistics.median(found):.3f}"
        line += f" ({min(found):.3f}–{max(found):.3f})"
        if way != DIRECT:
            pairs = zip(found, rows[kind, DIRECT], strict=True)
            ratios = [ours / theirs for ours, theirs in pairs]
            line += f"  ratio {statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f})"
            result, goal = (ratios, 0.97) if live else (found, GOALS[kind])
            line += f"  goal {goal}" + ("" if statistics.median(result) >= goal else " MISSED")
        print(line)


async def check(ways: Ways, urls: Sequence[str]) -> None:
    """Exits with a message if a prompt was lost or run twice."""
    clients = [client for _, those in ways.values() for client in those]
    ids = {prompt_id for client in clients for prompt_id in client.posted}
    histories = []
    async with aiohttp.ClientSession() as session:
        for url in urls:
            async with session.get(f"{url}/history") as response:
                histories.append(set(await response.json()) & ids)
    not_once = [prompt_id for client in clients for prompt_id in client.not_once()]
    places = Counter(prompt_id for history in histories for prompt_id in history)
    not_once += [prompt_id for prompt_id in ids if places[prompt_id] != 1]
    if not_once:
        sys.exit(f"lost or run twice: {sorted(set(not_once))}")
    shares = " + ".join(str(len(history)) for history in histories)
    print(f"{len(ids)} prompts, none lost, none run twice: {shares}")


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--live", metavar="URL1,URL2", type=lambda text: text.split(","))
    options = parser.parse_args()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "templates").mkdir()
        urls = await stack.enter_async_context(instances(options.live, folder))
        url = await stack.enter_async_context(proxy_process(urls, folder / "templates"))
        ways = await stack.enter_async_context(all_ways(url, urls))
        rows = await measure(ways, options.rounds, options.seed)
        await check(ways, urls)
    report(rows, live=options.live is not None)


if __name__ == "__main__":
    asyncio.run(main())
