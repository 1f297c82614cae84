"""One kind of frame by one way, for bench-sockets: as fast as it goes, then at a quiet rate."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from bench_load import cpu_seconds
from bench_sockets_world import BINARY, TEXT, Client, World, connected, left, until
from bench_upstream import frame

WINDOW, RATE = 8, 100
WARM, IDLE = 200, 800
LARGE = 100_000


@dataclass(frozen=True, kw_only=True)
class Way:
    port: int
    pid: int


@dataclass(frozen=True, kw_only=True)
class Kind:
    """``make`` makes a frame from the id of the client's prompt."""

    make: Callable[[str], bytes]
    clients: int
    own: bool


@dataclass(frozen=True, kw_only=True)
class Figures:
    per_second: float
    cpu_us: float
    p50_ms: float
    p99_ms: float


def event(kind: str, data: Mapping[str, object]) -> bytes:
    return frame(TEXT, json.dumps({"type": kind, "data": data}).encode())


def picture(_: str) -> bytes:
    """A JPEG preview."""
    return frame(BINARY, b"\0\0\0\1\0\0\0\1" + bytes(LARGE - 8))


def progress(prompt_id: str) -> bytes:
    return event("progress", {"value": 3, "max": 20, "prompt_id": prompt_id, "node": "7"})


def status(_: str) -> bytes:
    return event("status", {"status": {"exec_info": {"queue_remaining": 3}}})


def states(prompt_id: str) -> bytes:
    """How far each node of a large workflow is: told at each step of one of them."""
    ids = {"prompt_id": prompt_id, "parent_node_id": None}
    nodes = {
        node: {"value": 1.0, "max": 1.0, "state": "finished", "node_id": node, **ids}
        for node in map(str, range(LARGE // 190))
    }
    return event("progress_state", {"prompt_id": prompt_id, "nodes": nodes})


def shown_text(prompt_id: str) -> bytes:
    """What a node shows: a text of many lines."""
    output = {"text": ["\n".join(f"line {number}" for number in range(LARGE // 12))]}
    return event("executed", {"node": "7", "output": output, "prompt_id": prompt_id})


def large_broadcast(_: str) -> bytes:
    """A custom node's own, for everybody."""
    return event("custom.graph", {"points": [[one, one / 7] for one in range(LARGE // 30)]})


def told(_: str) -> bytes:
    """A custom node's broadcast."""
    return event("crystools.monitor", {"cpu_utilization": 12.5, "ram_used_percent": 40.25})


KINDS = {
    "100 KB pictures, 1 client, own": Kind(make=picture, clients=1, own=True),
    "100 KB pictures, 20 clients, own": Kind(make=picture, clients=20, own=True),
    "progress, 1 client, own": Kind(make=progress, clients=1, own=True),
    "progress, 20 clients, own": Kind(make=progress, clients=20, own=True),
    "status, 1 client, own": Kind(make=status, clients=1, own=True),
    "progress_state of 100 KB, 1 client, own": Kind(make=states, clients=1, own=True),
    "executed of 100 KB, 1 client, own": Kind(make=shown_text, clients=1, own=True),
    "custom text, 20 clients, broadcast": Kind(make=told, clients=20, own=False),
    "custom of 100 KB, 20 clients, broadcast": Kind(make=large_broadcast, clients=20, own=False),
    "status, 20 clients, broadcast": Kind(make=status, clients=20, own=False),
}


class Stretch:
    """One kind of frame by one way, from open sockets to closed ones. ``sinks`` are the transports
    to which a client's frames are written; None: all that are open."""

    def __init__(self, world: World, way: Way, kind: Kind) -> None:
        self._world, self._way, self._kind = world, way, kind
        self._clients: list[Client] = []
        self._ids = {uuid.uuid4().hex for _ in range(kind.clients)}
        self._of: dict[Client, tuple[Callable[[], None], int]] = {}
        self._taken: list[float] = []
        self._frames = self._outstanding = 0
        self._full_speed = False

    async def measure(self, seconds: float) -> Figures:
        await self._open()
        try:
            await self._run(seconds / 4, None)
            before, frames = cpu_seconds(self._way.pid), self._frames
            begun = time.perf_counter()
            await self._run(seconds, None)
            took = time.perf_counter() - begun
            counted = self._frames - frames
            cpu_us = (cpu_seconds(self._way.pid) - before) / counted * 1e6
            self._taken.clear()
            await self._run(seconds, 1 / RATE)
        finally:
            for client in self._clients:
                left(client)
        taken = sorted(self._taken)
        await until(lambda: not self._ids & self._world.open.keys(), "the sockets end")
        return Figures(
            per_second=counted / took,
            cpu_us=cpu_us,
            p50_ms=statistics.median(taken) * 1000,
            p99_ms=taken[int(len(taken) * 0.99)] * 1000,
        )

    async def _open(self) -> None:
        self._clients = [await connected(self._way.port, one) for one in self._ids]
        if not self._kind.own:
            data = self._kind.make("")
            for client in self._clients:
                self._of[client] = self._everybody(data), len(data)
                client.on_frame = self._came
            return
        for client, client_id in zip(self._clients, self._ids, strict=True):
            prompt_id = str(uuid.uuid4())
            await _post(self._way.port, client_id, prompt_id)
            await until(lambda one=client_id: one in self._world.open, "a client's own socket")
            sink = self._world.open[client_id]
            sink.write(event("execution_start", {"prompt_id": prompt_id}))
            sink.write(event("executing", {"node": "7", "prompt_id": prompt_id}))
            data = self._kind.make(prompt_id)
            self._of[client] = self._one(client, sink, data), len(data)
        await asyncio.sleep(1.5)  # both sockets were listened to until then
        for client in self._clients:
            client.on_frame = self._came

    def _one(self, client: Client, sink: asyncio.Transport, data: bytes) -> Callable[[], None]:
        def send() -> None:
            client.sent_at.append(time.perf_counter())
            self._outstanding += 1
            sink.write(data)

        return send

    def _everybody(self, data: bytes) -> Callable[[], None]:
        sinks, clients = tuple(self._sinks()), self._clients

        def send() -> None:
            now = time.perf_counter()
            for client in clients:
                client.sent_at.append(now)
            self._outstanding += len(clients)
            for sink in sinks:
                sink.write(data)

        return send

    def _sinks(self) -> Iterator[asyncio.Transport]:
        """Of the first instance alone: the second tells the shared socket its own broadcasts."""
        for sink in self._world.open.values():
            if sink.get_extra_info("sockname")[1] == self._world.ports[0]:
                yield sink

    def _came(self, client: Client, size: int) -> None:
        if not client.sent_at:
            return  # what is none of ours
        self._frames += 1
        self._outstanding -= 1
        self._taken.append(time.perf_counter() - client.sent_at.popleft())
        if not self._full_speed:
            return
        if self._kind.own or self._outstanding <= (WINDOW - 1) * len(self._clients):
            self._of[client][0]()

    async def _run(self, seconds: float, interval_s: float | None) -> None:
        """As fast as it goes, or a frame to each client at each interval; then until all came."""
        senders = [self._of[one][0] for one in self._clients]
        senders = senders if self._kind.own else senders[:1]
        self._full_speed = interval_s is None
        end = time.perf_counter() + seconds
        if interval_s is None:
            for _ in range(WINDOW):
                for send in senders:
                    send()
            await asyncio.sleep(seconds)
        while interval_s is not None and time.perf_counter() < end:
            for send in senders:
                send()
            await asyncio.sleep(interval_s)
        self._full_speed = False
        await until(lambda: self._outstanding == 0, "all frames come")


async def _post(port: int, client_id: str, prompt_id: str) -> None:
    """A prompt that never ends."""
    graph = {"1": {"class_type": "TimedPass", "inputs": {"seconds": 1e6, "salt": prompt_id}}}
    body = {"prompt": graph, "client_id": client_id, "prompt_id": prompt_id}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{port}/prompt", json=body) as reply,
    ):
        if reply.status != 200:
            raise SystemExit(f"a prompt was refused: {await reply.text()}")


async def looking(world: World, way: Way, path: str) -> tuple[float, int]:
    """KB of memory that an idle client takes; sockets at the instances when there are WARM."""
    already = len(world.open)
    clients = [await connected(way.port, uuid.uuid4().hex, path) for _ in range(WARM)]
    sockets = len(world.open)
    await asyncio.sleep(1.0)
    before = _private_kb(way.pid)
    clients += [await connected(way.port, uuid.uuid4().hex, path) for _ in range(IDLE)]
    await asyncio.sleep(1.0)
    each = (_private_kb(way.pid) - before) / IDLE
    for client in clients:
        left(client)
    await until(lambda: len(world.open) <= max(already, 3), "idle clients' sockets end")
    return each, sockets


def _private_kb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
