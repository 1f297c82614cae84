"""The forwarding path beside nginx's, a plain aiohttp proxy's and none, in one run.

One upstream (bench_upstream.py) is asked directly, through nginx (Debian's, one worker, tuned for
streaming, access log on), through the plain aiohttp proxy of bench_plain_proxy.py, and through
`comfy-proxy serve` (one process, uvloop, LOG_LEVEL=info; small GETs also with LOG_LEVEL=error,
which shows what the lines cost). In each round every kind of request meets every way once, in an
order that turns: small JSON by GET at 1, 16 and 64 connections, of a route of ComfyUI's own and of
one that only a custom node can have, and at four connections each 20 MB down and up, a picture
of 20 MB uploaded (which the proxy alone puts on the second instance as well) and 100 KB WebSocket
frames down and up.

CPU is that of the way's own processes (children too) for each request; the upstream's own for the
direct way. Ratios are of throughput, of p99 and of CPU, of the same round.

--logging leaves out the others and compares the proxy with itself: LOG_LEVEL=info, a line for each
request in combined.log and on the console, beside LOG_LEVEL=error, no line at all.
"""

from __future__ import annotations

import argparse
import os
import statistics
import string
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench_load import (
    CLIENTS,
    Load,
    closed_loop,
    cpu_seconds,
    download,
    frame_down,
    frame_up,
    small_gets,
    upload,
    upload_picture,
)
from bench_processes import free_ports, process, wait_for

HERE = Path(__file__).parent
DIRECT, NGINX, PLAIN, PROXY, SILENT = "direct", "nginx", "plain", "proxy", "proxy, error"


@dataclass(frozen=True, kw_only=True)
class Way:
    """A port, and the process that is behind it."""

    port: int
    pid: int


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One kind of request by one way in one round."""

    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


Table = dict[tuple[str, str], list[Figures]]


def kinds(duration_s: int) -> dict[str, Load]:
    return {
        **{
            f"GET of small JSON, {route}, {count} at once": small_gets(path, count, duration_s)
            for route, path in (("ComfyUI's", "/i18n"), ("custom", "/small"))
            for count in (1, 16, 64)
        },
        "20 MB down": closed_loop(download, duration_s),
        "20 MB up": closed_loop(upload, duration_s),
        "a picture of 20 MB": closed_loop(upload_picture, duration_s),
        "100 KB frames down": closed_loop(frame_down, duration_s, upgrade=True),
        "100 KB frames up": closed_loop(frame_up, duration_s, upgrade=True),
    }


@contextmanager
def all_ways(folder: Path, *, logging: bool) -> Iterator[dict[str, Way]]:
    """The upstream with two addresses (two instances for the proxy), and who stands before it."""
    one, two, nginx, plain, proxy, quiet = free_ports(6)
    template = string.Template((HERE / "bench_nginx.conf").read_text())
    configuration = folder / "nginx.conf"
    configuration.write_text(template.substitute(folder=folder, port=nginx, upstream=one))
    with ExitStack() as stack:

        def start(name: str, port: int, path: str, *command: str, **environ: str) -> Way:
            log = folder / f"{name}.log"
            pid = stack.enter_context(process(command, log, **environ))
            wait_for(port, path)
            return Way(port=port, pid=pid)

        def serve(name: str, port: int, level: str) -> Way:
            return start(
                name,
                port,
                "/health/ready",
                *(sys.executable, "-m", "comfy_proxy", "serve"),
                COMFYUI_HOST_1=f"127.0.0.1:{one}",
                COMFYUI_HOST_2=f"127.0.0.1:{two}",
                PORT=str(port),
                LOG_LEVEL=level,
                LOG_DIRECTORY=str(folder / f"{name}-logs"),
            )

        upstream = (sys.executable, str(HERE / "bench_upstream.py"), str(one), str(two))
        if logging:
            start("upstream", one, "/small", *upstream)
            yield {PROXY: serve("proxy", proxy, "info"), SILENT: serve("quiet", quiet, "error")}
            return
        # A path of nginx's before the configuration is read: its error log.
        command = ("nginx", "-e", str(folder / "nginx-start.log"), "-c", str(configuration))
        plainly = (sys.executable, str(HERE / "bench_plain_proxy.py"), str(plain))
        plainly = (*plainly, f"http://127.0.0.1:{one}")
        yield {
            DIRECT: start("upstream", one, "/small", *upstream),
            NGINX: start("nginx", nginx, "/small", *command),
            PLAIN: start("plain", plain, "/small", *plainly),
            PROXY: serve("proxy", proxy, "info"),
            SILENT: serve("quiet", quiet, "error"),
        }


def measure_one(way: Way, load: Load) -> Figures:
    before = cpu_seconds(way.pid)
    sample = load(way.port)
    return Figures(
        per_second=sample.per_second,
        p50_ms=sample.p50_ms,
        p99_ms=sample.p99_ms,
        cpu_us=(cpu_seconds(way.pid) - before) / sample.requests * 1e6,
    )


def measure(ways: Mapping[str, Way], loads: Mapping[str, Load], rounds: int) -> Table:
    table: Table = {}
    for number in range(rounds):
        for kind, load in loads.items():
            names = [name for name in ways if name != SILENT or "JSON" in kind]
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                figures = measure_one(ways[name], load)
                table.setdefault((kind, name), []).append(figures)
                print(f"round {number + 1}  {kind:34} {name:12} {_plain(figures)}", flush=True)
    return table


def _plain(figures: Figures) -> str:
    return (
        f"{figures.per_second:8.1f}/s  p50 {figures.p50_ms:7.2f} ms  p99 {figures.p99_ms:7.2f} ms"
        f"  cpu {figures.cpu_us:7.0f} µs"
    )


def spread(values: Sequence[float], digits: int) -> str:
    """Median (least–most)."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def ratio(table: Table, kind: str, ours: str, theirs: str, field: str) -> str:
    """Of the medians' field, round by round."""
    pairs = zip(table[kind, ours], table[kind, theirs], strict=True)
    return spread([getattr(one, field) / getattr(other, field) for one, other in pairs], 2)


def report(table: Table) -> None:
    """Two tables in Markdown."""
    print("\n| request | way | per second | p50 ms | p99 ms | CPU µs a request |")
    print("|---|---|---|---|---|---|")
    order = list(dict.fromkeys(kind for kind, _ in table))
    for kind, way in sorted(table, key=lambda key: order.index(key[0])):
        rows = table[kind, way]
        digits = 0 if "JSON" in kind or "frames" in kind else 1
        columns = [
            spread([row.per_second for row in rows], digits),
            spread([row.p50_ms for row in rows], 2),
            spread([row.p99_ms for row in rows], 2),
            spread([row.cpu_us for row in rows], 0),
        ]
        print(f"| {kind} | {way} | {' | '.join(columns)} |")
    print("\n| request | throughput: proxy/plain | p99 | CPU | throughput: proxy/nginx | CPU |")
    print("|---|---|---|---|---|---|")
    for kind, way in table:
        if way == PROXY:
            columns = [
                *(ratio(table, kind, PROXY, PLAIN, one) for one in ("per_second", "p99_ms")),
                ratio(table, kind, PROXY, PLAIN, "cpu_us"),
                ratio(table, kind, PROXY, NGINX, "per_second"),
                ratio(table, kind, PROXY, NGINX, "cpu_us"),
            ]
            print(f"| {kind} | {' | '.join(columns)} |")


def report_logging(table: Table) -> None:
    """What a line for each request costs, in Markdown."""
    print("\n| request | per second, info | error | throughput: info/error | CPU: info/error |")
    print("|---|---|---|---|---|")
    for kind in dict.fromkeys(kind for kind, _ in table):
        columns = [
            *(spread([row.per_second for row in table[kind, way]], 0) for way in (PROXY, SILENT)),
            ratio(table, kind, PROXY, SILENT, "per_second"),
            ratio(table, kind, PROXY, SILENT, "cpu_us"),
        ]
        print(f"| {kind} | {' | '.join(columns)} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each stretch")
    parser.add_argument("--only", default="", help="kinds of request whose name has this in it")
    parser.add_argument("--logging", action="store_true", help="info beside error, nothing else")
    options = parser.parse_args()
    loads = {name: load for name, load in kinds(options.seconds).items() if options.only in name}
    with (
        tempfile.TemporaryDirectory() as folder,
        all_ways(Path(folder), logging=options.logging) as ways,
    ):
        table = measure(ways, loads, options.rounds)
        report_logging(table) if options.logging else report(table)
    print(
        f"\nbodies and frames: {CLIENTS} connections; {os.cpu_count()} cores; {options.rounds}"
        f" rounds of {options.seconds} s; load average {os.getloadavg()[1]:.1f}"
    )


if __name__ == "__main__":
    main()
