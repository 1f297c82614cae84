"""Instances die, hang and lose connections for a while; whatever was accepted must end, once.

Instances (embedded workers in processes of their own, or real ones with --comfyui, each behind a
forwarder that can be a bad network), the proxy before them in its own process, and clients: six
with a socket, four that only poll, two of the job API, one that uploads. Each prompt and job has a
colour, by which its picture is known and its runs at the instances are counted. What goes wrong,
where and when is decided by a seed; at any time one instance at least has no fault. At the end all
is mended, and what is open has a minute to end.

The exit code is 0 if none of these was found:
  lost     accepted, and its client never learned of an end
  again    run once more though the instance that ran it had neither died nor hung
  twice    its client was told two ends
  wrong    another picture, none, or the end of somebody else's prompt
  gone     {}, or that its results were lost, as the history of a success whose process lives
  untold   it ended, and the socket of its client did not say so
  refused  not taken
  failed   for another reason than those of poison and input
These are printed and do not count:
  poison   failed because two processes ended while they ran it
  rerun    run once more, and that was needed
  unseen   for a while in neither queue nor history
  forgot   the same of a success whose process has ended since (--strict counts it)
  input    failed, because an instance that had its uploaded input had lost its files
  slow     an answer after more than 7 s
Logs, findings.txt and findings.json of each seed are kept in a directory, which is printed first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import aiohttp
from chaos_clients import Client, PollingClient, SocketClient
from chaos_faults import KINDS, carry_out, plan
from chaos_http import Http
from chaos_instances import comfyui, embedded
from chaos_job_clients import JobClient, UploadClient
from chaos_records import Records
from chaos_verdict import COUNTED, TOLD, Finding, Verdict, executions
from chaos_world import World
from timed_workflow import write_workflows

CLIENTS = ((SocketClient, "socket", 6), (PollingClient, "poller", 4), (JobClient, "jobs", 2),
           (UploadClient, "uploads", 1))  # fmt: skip
END_S = 60.0  # for what is open when all is mended
SHORT_S = 20.0
Found = tuple[list[Finding], Counter[str]]
"""Of one seed, and how many of each, with how much was asked for."""


def _seeds(text: str) -> list[int]:
    """``3``, ``1-10`` or ``1,4,7-9``."""
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def _kinds(text: str) -> list[str]:
    kinds = [] if text == "none" else text.split(",")
    if unknown := set(kinds) - set(KINDS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not of {KINDS}")
    return kinds


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=_seeds, default=_seeds("1-10"), help="as 1-10 or 1,4")
    parser.add_argument("--seconds", type=float, default=60.0, help="of faults, each seed")
    parser.add_argument("--instances", type=int, default=3)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="for logs and findings")
    parser.add_argument(
        "--faults", type=_kinds, default=list(KINDS), help=f"of {','.join(KINDS)}, or none"
    )
    parser.add_argument(
        "--comfyui", type=Path, metavar="CACHE", help="real servers, as scripts/live-comfyui has"
    )
    parser.add_argument("--strict", action="store_true", help="what was forgotten counts")
    parser.add_argument("--short", action="store_true", help="one seed of 20 s")
    options = parser.parse_args(arguments)
    if options.short:
        options.seeds, options.seconds = options.seeds[:1], SHORT_S
    if options.instances < 2:
        parser.error("--instances: two at least, for one has no fault")
    return options


async def _settle(clients: Sequence[Client], records: Records) -> None:
    """Wait until all that was accepted has ended and was looked at, END_S at most."""
    deadline = time.monotonic() + END_S
    while time.monotonic() < deadline:
        if not any(client.open_works() or client.looking for client in clients):
            break
        await asyncio.sleep(0.2)
    for client in clients:
        for work in client.works:
            if work.kind == "job":
                continue
            if work.ended is None and (entry := await client.history(work.id)):
                work.ended = time.time()  # and nobody was told
                if entry["status"]["status_str"] != "success":
                    work.failure = str(entry["status"]["messages"][-1:])
            if work.succeeded:
                await client.look_once(work, "at the end")
        if isinstance(client, SocketClient):
            records.strangers += client.strangers()


async def _use(world: World, seed: int, options: argparse.Namespace) -> Records:
    records = Records()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        http = Http(session, world.url, records.slow)
        clients = [
            kind(http, records, f"{name}-{number}", seed)
            for kind, name, count in CLIENTS
            for number in range(1, count + 1)
        ]
        running = [asyncio.create_task(client.run()) for client in clients]
        try:
            faults = plan(seed, options.seconds, options.instances, options.faults)
            await carry_out(world, faults, options.seconds)
            for client in clients:
                client.stopping = True
            await _settle(clients, records)
            for task in running:
                if task.done() and (error := task.exception()):
                    raise error
        finally:
            left = [*running, *(task for client in clients for task in client.looking)]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
    return records


async def run_seed(seed: int, folder: Path, options: argparse.Namespace) -> Found:
    """One run; its logs and what it found are in ``folder``."""
    write_workflows(folder / "workflows")
    os.environ["WORKFLOW_DIRECTORY"] = str(folder / "workflows")
    start = embedded if options.comfyui is None else comfyui(options.comfyui.absolute())
    async with World(folder, options.instances, start) as world:
        records = await _use(world, seed, options)
        if not world.proxy_runs:
            raise SystemExit(f"the proxy has ended; see {folder}")
    runs = executions([worker.journal for worker in world.workers])
    findings = Verdict(records, runs, world.troubles).findings()
    document = {
        "findings": [asdict(one) for one in findings],
        "troubles": [asdict(one) for one in world.troubles],
        "strange": records.strange,
        "works": [asdict(one) for one in records.works],
    }
    (folder / "findings.json").write_text(json.dumps(document, indent=1))
    (folder / "findings.txt").write_text("\n".join(_lines(findings, details=True)) + "\n")
    counts = _sizes(records) + Counter(one.what for one in findings)
    _print_row(str(seed), counts)
    return findings, counts


def _sizes(records: Records) -> Counter[str]:
    sizes = Counter(f"{work.kind}s" for work in records.works if work.accepted)
    sizes["uploads"] = records.uploads
    return sizes


SIZES = ("prompts", "jobs", "uploads")


def _print_row(name: str, counts: Counter[str]) -> None:
    cells = [counts[one] for one in (*SIZES, *COUNTED, *TOLD)]
    print(f"{name:>5} " + " ".join(f"{cell:>7}" for cell in cells), flush=True)


def _lines(findings: Sequence[Finding], *, details: bool) -> Iterator[str]:
    for one in findings:
        who = f" {one.work.kind} {one.work.id} of {one.work.client}" if one.work else ""
        yield f"{one.what}:{who} {one.why}"
        yield from (f"    {line}" for line in one.details if details)


async def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    running = asyncio.current_task()
    assert running is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    keep = options.keep or Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"logs and findings: {keep}")
    print("      " + " ".join(f"{name:>7}" for name in (*SIZES, *COUNTED, *TOLD)), flush=True)
    counted = (*COUNTED, "forgot") if options.strict else COUNTED
    found: list[tuple[int, list[Finding]]] = []
    total: Counter[str] = Counter()
    for seed in options.seeds:
        folder = keep / f"seed-{seed}"
        folder.mkdir(parents=True)
        findings, counts = await run_seed(seed, folder, options)
        found.append((seed, findings))
        total += counts
    _print_row("sum", total)
    for seed, findings in found:
        counting = [one for one in findings if one.what in counted]
        for line in _lines(counting, details=options.short):
            print(f"seed {seed}, {line[:300]}")
    return 1 if any(total[what] for what in counted) else 0


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
