"""Ports and processes of the benchmarks: started, waited for, ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

START_TIMEOUT_S = 15


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextmanager
def process(command: Sequence[str], log: Path, **environ: str) -> Iterator[int]:
    """Its pid; what it prints goes into ``log``."""
    with log.open("wb") as output:
        running = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **environ}
        )
    try:
        yield running.pid
    finally:
        running.terminate()
        running.wait()


def wait_for(port: int, path: str, timeout_s: float = START_TIMEOUT_S) -> None:
    """Until ``path`` is answered with 200. Exits with a message if it never is."""
    last = time.monotonic() + timeout_s
    while time.monotonic() < last:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}"):
            return
        time.sleep(0.05)
    sys.exit(f"nothing answers {path} at port {port}")
