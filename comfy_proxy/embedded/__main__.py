"""`python -m comfy_proxy.embedded`: one worker in this process, until it is told to end.

Prints one JSON line, `{"url": …, "pid": …}`, when it is ready. Ends on SIGTERM, on SIGINT and,
if its standard input is a pipe, when the other end of that goes away.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from comfy_proxy.embedded.simulated_gpu import SimulatedModels
from comfy_proxy.embedded.worker import EmbeddedWorker

# Seconds after which the executor's thread hands the interpreter over, so that a busy node does not
# delay answers: 5 ms, the default, is five times what an answer takes.
SWITCH_INTERVAL_S = 0.0005
DEATH_EXIT_CODE = 137  # as a shell reports a process that was killed by SIGKILL


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one worker; the exit code is 0 after an orderly end, 1 if the port is taken."""
    options = _parser().parse_args(arguments)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        asyncio.run(_serve(options))
    except OSError as error:
        print(f"cannot listen on port {options.port}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m comfy_proxy.embedded", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--base-directory", type=Path, required=True)
    parser.add_argument("--name", default="embedded")
    parser.add_argument("--test-nodes", action="store_true", help="add TimedPass and its like")
    parser.add_argument("--allow-faults", action="store_true", help="open POST /embedded/faults")
    parser.add_argument("--of-2026", action="store_true", help="job views and assets")
    parser.add_argument("--upscale-model", action="append", default=[], metavar="NAME")
    simulated = parser.add_argument_group("models that cost time and memory, and nothing else")
    simulated.add_argument(
        "--simulated-model", action="append", default=[], metavar="NAME=BYTES", type=_model_file
    )
    simulated.add_argument("--vram", type=int, default=0, help="bytes; 0 fits the largest model")
    simulated.add_argument("--load-seconds", type=float, default=1.5, help="of the largest model")
    simulated.add_argument("--speed", type=float, default=1.0, help="divides all their times")
    return parser


def _model_file(text: str) -> tuple[str, int]:
    name, _, size = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=BYTES")
    return name, int(size)


def _simulated_models(options: argparse.Namespace) -> SimulatedModels:
    return SimulatedModels(
        files=dict(options.simulated_model),
        vram=options.vram,
        load_s=options.load_seconds,
        speed=options.speed,
    )


async def _serve(options: argparse.Namespace) -> None:
    finished = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, finished.set)
    worker = EmbeddedWorker(
        base_directory=options.base_directory,
        name=options.name,
        test_nodes=options.test_nodes,
        upscale_models=options.upscale_model,
        allow_faults=options.allow_faults,
        simulated_models=_simulated_models(options),
        of_2026=options.of_2026,
        on_death=lambda: os._exit(DEATH_EXIT_CODE),
    )
    await worker.start(options.port)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(worker.stop)
        if _has_other_end(sys.stdin.fileno()):
            parent = await _watch(sys.stdin.buffer, finished)
            stack.callback(parent.close)
        print(json.dumps({"url": worker.url, "pid": os.getpid()}), flush=True)
        await finished.wait()


def _has_other_end(descriptor: int) -> bool:
    """True for a pipe or a socket pair, which subprocess modules give their children as stdin."""
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


async def _watch(pipe: BinaryIO, finished: asyncio.Event) -> asyncio.ReadTransport:
    """Set `finished` when the other end of a pipe goes away."""

    class Parent(asyncio.Protocol):
        def connection_lost(self, _error: Exception | None) -> None:
            finished.set()

    transport, _ = await asyncio.get_running_loop().connect_read_pipe(Parent, pipe)
    return transport


if __name__ == "__main__":
    sys.exit(main())
