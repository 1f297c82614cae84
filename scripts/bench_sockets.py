"""Frames from an instance to clients: through us, through a plain aiohttp proxy, and direct.

Instances and clients are this process (bench_sockets_world.py), the ways are processes of their
own. Each kind of frame meets each way in each round once, in an order that turns. ``own``: each
client has a prompt at the instance, so it has a socket of its own there; each is sent frames of its
own. ``broadcast``: clients only look, and each frame is sent to every socket that is open at the
instance, as ComfyUI does: through us that is one, through the others one a client.

A stretch is as fast as it goes, with WINDOW frames on their way to each client; the next one is at
RATE frames (or broadcasts) a second, for the time from a frame's sending to its end at the client.
CPU is that of the way's own process, for each frame that came to a client. added is the way's time
less the direct way's, of the same round. Then the memory of IDLE clients that only look, beside
that of bare aiohttp WebSockets without any upstream, and how many sockets WARM clients that only
look have at the instances.

usage: bench_sockets.py [--rounds 5] [--seconds 2] [--only TEXT] [--beside FOLDER]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import aiohttp
import uvloop
from bench_forward import spread
from bench_processes import free_ports, process
from bench_sockets_stretch import KINDS, WARM, Figures, Kind, Stretch, Way, looking
from bench_sockets_world import World

HERE = Path(__file__).parent
DIRECT, PLAIN, PROXY, BESIDE = "direct", "plain", "proxy", "beside"

Table = dict[tuple[str, str], list[Figures]]


@contextmanager
def all_ways(
    folder: Path, ports: Sequence[int], only: Sequence[str], beside: str = ""
) -> Iterator[dict[str, Way]]:
    """Those of ``only``; ``beside`` is a folder with another version of us."""
    url = f"http://127.0.0.1:{ports[0]}"
    with ExitStack() as stack:

        def start(name: str, *command: str, **environ: str) -> int:
            return stack.enter_context(process(command, folder / f"{name}.log", **environ))

        def serve(name: str, port: int, **environ: str) -> int:
            return start(
                name,
                *(sys.executable, "-P", "-m", "comfy_proxy", "serve"),  # of PYTHONPATH alone
                **environ,
                COMFYUI_HOST_1=f"127.0.0.1:{ports[0]}",
                COMFYUI_HOST_2=f"127.0.0.1:{ports[1]}",
                PORT=str(port),
                HANG_TIMEOUT="0",
                SHUTDOWN_TIMEOUT="1",
                MAX_CLIENT_CONNECTIONS="5000",
                LOG_DIRECTORY=str(folder / f"{name}-logs"),
            )

        def way(name: str, port: int) -> Way:
            if name == DIRECT:
                return Way(port=ports[0], pid=os.getpid())
            if name == PLAIN:
                script = str(HERE / "bench_plain_proxy.py")
                return Way(port=port, pid=start(name, sys.executable, script, str(port), url))
            source = beside if name == BESIDE else str(HERE.parent)
            return Way(port=port, pid=serve(name, port, PYTHONPATH=source))

        free = free_ports(len(only))
        yield {name: way(name, port) for name, port in zip(only, free, strict=True)}


async def answering(ways: Mapping[str, Way]) -> None:
    """Until each way answers, and both instances are healthy for us."""
    async with aiohttp.ClientSession() as session:

        async def answers(way: Way, path: str, words: str) -> bool:
            try:
                async with session.get(f"http://127.0.0.1:{way.port}{path}") as reply:
                    return reply.status == 200 and words in await reply.text()
            except aiohttp.ClientConnectionError:
                return False

        last = time.monotonic() + 20
        asked = [(way, "/system_stats", "") for way in ways.values()]
        asked += [
            (way, "/health", '"unhealthy":0')
            for name, way in ways.items()
            if name in (PROXY, BESIDE)
        ]
        while not all([await answers(*one) for one in asked]):
            if time.monotonic() > last:
                raise SystemExit("a way does not answer")
            await asyncio.sleep(0.1)


async def measure(
    ways: Mapping[str, Way], world: World, kinds: Mapping[str, Kind], options: argparse.Namespace
) -> Table:
    table: Table = {}
    for number in range(options.rounds):
        for name, kind in kinds.items():
            turn = number % len(ways)
            for way in [*ways][turn:] + [*ways][:turn]:
                figures = await Stretch(world, ways[way], kind).measure(options.seconds)
                table.setdefault((name, way), []).append(figures)
                print(f"round {number + 1}  {name:36} {way:7} {_plain(figures)}", flush=True)
    return table


def _plain(one: Figures) -> str:
    return (
        f"{one.per_second:8.0f}/s  cpu {one.cpu_us:6.1f} µs  p50 {one.p50_ms:6.3f} ms"
        f"  p99 {one.p99_ms:6.3f} ms"
    )


def report(table: Table) -> None:
    print("\n| frames | way | per second | CPU µs a frame | p50 ms | p99 ms |")
    print("|---|---|---|---|---|---|")
    for (kind, way), rows in sorted(table.items(), key=lambda one: one[0][0]):
        fields = (("per_second", 0), ("cpu_us", 1), ("p50_ms", 3), ("p99_ms", 3))
        columns = [spread([getattr(row, name) for row in rows], digits) for name, digits in fields]
        print(f"| {kind} | {way} | {' | '.join(columns)} |")
    for name in [PROXY, BESIDE] if (next(iter(table))[0], BESIDE) in table else [PROXY]:
        _ratios(table, name)


def _ratios(table: Table, name: str) -> None:
    """Of the same round."""
    print(f"\n| frames | per second: {name}/plain | CPU: {name}/plain | added ms, {name} | plain |")
    print("|---|---|---|---|---|")
    for kind in dict.fromkeys(kind for kind, _ in table):
        ours, plain, direct = (table[kind, way] for way in (name, PLAIN, DIRECT))
        faster = [a.per_second / b.per_second for a, b in zip(ours, plain, strict=True)]
        cheaper = [a.cpu_us / b.cpu_us for a, b in zip(ours, plain, strict=True)]
        added = (
            spread([a.p50_ms - b.p50_ms for a, b in zip(rows, direct, strict=True)], 3)
            for rows in (ours, plain)
        )
        print(f"| {kind} | {spread(faster, 2)} | {spread(cheaper, 2)} | {' | '.join(added)} |")


async def idle(world: World) -> None:
    """Each in a process that has done nothing else: what others left is used again."""
    found: dict[str, tuple[float, int]] = {}
    for name, path in ((PROXY, "/ws"), (PLAIN, "/ws"), (PLAIN, "/bare")):
        with (
            tempfile.TemporaryDirectory() as folder,
            all_ways(Path(folder), world.ports, [name]) as ways,
        ):
            await answering(ways)
            found[name + path] = await looking(world, ways[name], path)
    ours, sockets = found["proxy/ws"]
    plain, others = found["plain/ws"]
    bare, _ = found["plain/bare"]
    print(
        f"\nan idle client: proxy {ours:.2f} KB, bare aiohttp WebSocket {bare:.2f} KB (ratio"
        f" {ours / bare:.2f}), plain proxy {plain:.2f} KB"
        f"\nsockets at the instances with {WARM} clients that only look: proxy {sockets},"
        f" plain proxy {others}"
    )


async def run(options: argparse.Namespace) -> None:
    kinds = {name: kind for name, kind in KINDS.items() if options.only in name}
    only = [DIRECT, PLAIN, PROXY, *([BESIDE] if options.beside else ())]
    world = World(free_ports(2))
    async with world.served():
        if kinds:
            with (
                tempfile.TemporaryDirectory() as folder,
                all_ways(Path(folder), world.ports, only, options.beside) as ways,
            ):
                await answering(ways)
                report(await measure(ways, world, kinds, options))
        if not options.only or options.only == "idle":
            await idle(world)
    print(f"\n{os.cpu_count()} cores, load average {os.getloadavg()[1]:.1f} (of five minutes)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of each stretch")
    parser.add_argument("--only", default="", help="frames whose name has this in it; or idle")
    parser.add_argument("--beside", default="", help="a folder with another version of us")
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
