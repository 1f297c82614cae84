"""The processes of a chaos run: instances, the network before them, and the proxy."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from chaos_instances import ROOT, Start, embedded
from chaos_network import Forwarder, Network

START_S = 60.0  # for a process to listen
SOME_PORTS = range(20000, 32000)  # below those that the kernel gives to outgoing connections


def free_ports(count: int) -> list[int]:
    """Ports at which nobody listens."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().choice(SOME_PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


async def listens(port: int, timeout_s: float = START_S) -> None:
    """Return as soon as somebody listens there. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


@dataclass
class Trouble:
    """What was wrong with an instance, from when to when (``ended`` is None as long as it is)."""

    index: int
    kind: str
    begun: float
    detail: str = ""
    ended: float | None = None

    def meets(self, begun: float, ended: float) -> bool:
        return self.begun <= ended and (self.ended is None or self.ended >= begun)

    def __str__(self) -> str:
        end = "" if self.ended is None else f"{self.ended - self.begun:.1f} s"
        return f"{self.kind} {self.detail} {end}".replace("  ", " ").strip()


class Worker:
    """One instance in a process of its own; what it says is kept in a file."""

    def __init__(self, index: int, port: int, folder: Path, start: Start) -> None:
        self.port = port
        self._start = start
        self.base = folder / f"instance-{index + 1}"
        self._log = folder / f"instance-{index + 1}.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def journal(self) -> Path:
        return self.base.with_suffix(".journal")

    def start(self) -> None:
        program = self._start(self.port, self.base)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                program.command,
                cwd=program.folder,
                env={**os.environ, **program.environ},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process = None

    def wipe(self) -> None:
        shutil.rmtree(self.base, ignore_errors=True)


class World:
    """All processes, which run while it is entered; ``url`` is the proxy's.

    ``troubles`` are the faults of instances so far. An instance is clean if it has none now.
    """

    def __init__(self, folder: Path, instances: int, start: Start = embedded) -> None:
        self._folder = folder
        ports = free_ports(2 * instances + 1)
        self.workers = [Worker(index, ports[index], folder, start) for index in range(instances)]
        self._before = ports[instances : 2 * instances]
        self._port = ports[-1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.troubles: list[Trouble] = []

    async def __aenter__(self) -> World:
        targets = [worker.port for worker in self.workers]
        self.network = Network(list(zip(self._before, targets, strict=True)))
        try:
            for worker in self.workers:
                worker.start()
            for worker in self.workers:
                await listens(worker.port)
            self._start_proxy()
            await listens(self._port)
        except BaseException:
            self._end()
            raise
        await asyncio.sleep(1.5)  # the proxy has looked at its instances
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await asyncio.to_thread(self._end)

    def _start_proxy(self) -> None:
        hosts = {f"COMFYUI_HOST_{n}": f"127.0.0.1:{p}" for n, p in enumerate(self._before, 1)}
        logs = {"LOG_LEVEL": "info", "LOG_DIRECTORY": str(self._folder)}
        environ = {k: v for k, v in os.environ.items() if not k.startswith("COMFYUI")}
        # ms; so that a run of a minute sees hangs that last longer than we wait for.
        own = {"HANG_TIMEOUT": "5000", "PORT": str(self._port), "PYTHONPATH": str(ROOT)}
        with (self._folder / "proxy.out").open("wb") as out:
            self._proxy = subprocess.Popen(
                [sys.executable, "-m", "comfy_proxy", "serve"],
                env={**environ, **hosts, **logs, **own},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def _end(self) -> None:
        proxy = getattr(self, "_proxy", None)
        if proxy is not None:
            proxy.terminate()
            try:
                proxy.wait(30)
            except subprocess.TimeoutExpired:
                proxy.kill()
                proxy.wait()
        for worker in self.workers:
            worker.kill()
        self.network.close()

    @property
    def proxy_runs(self) -> bool:
        return self._proxy.poll() is None

    def is_clean(self, index: int) -> bool:
        return not any(one.index == index and one.ended is None for one in self.troubles)

    def begin(self, index: int, kind: str, detail: str = "") -> Trouble:
        trouble = Trouble(index, kind, time.time(), detail)
        self.troubles.append(trouble)
        return trouble

    def kill(self, index: int) -> None:
        """Kill the instance. Its forwarder refuses connections too, as the kernel does for a
        process that has ended."""
        self.network.do(index, Forwarder.refuse)
        self.workers[index].kill()

    async def restart(self, index: int) -> None:
        """Start it again; returns when it answers."""
        self.workers[index].start()
        await listens(self.workers[index].port)
        self.network.do(index, Forwarder.listen)
