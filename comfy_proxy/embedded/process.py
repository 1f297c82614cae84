"""`WorkerProcess`: a worker in a process of its own, to be killed, stopped and started again."""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from comfy_proxy.embedded.local_server import LocalServer
from comfy_proxy.embedded.simulated_gpu import SimulatedModels

START_TIMEOUT_S = 30.0
"""Seconds for the process to say that it is ready; beyond, it is killed and WorkerProcessError
raised."""
STOP_TIMEOUT_S = 10.0
"""Seconds for the process to end after SIGTERM; beyond, it is killed."""


class WorkerProcessError(RuntimeError):
    """The process ended, or said nothing, before it was ready."""


class WorkerProcess(LocalServer):
    """Runs `python -m comfy_proxy.embedded` and knows its URL.

    The child watches its standard input: it ends by itself when this process goes away, however
    that happens. What it logs goes to this process's standard error.
    """

    def __init__(
        self,
        *,
        base_directory: Path,
        port: int = 0,
        name: str = "embedded",
        test_nodes: bool = False,
        allow_faults: bool = False,
        upscale_models: Sequence[str] = (),
        simulated_models: SimulatedModels | None = None,
        of_2026: bool = False,
    ) -> None:
        self.port = port
        self._arguments = ["--base-directory", str(base_directory), "--name", name]
        self._arguments += ["--test-nodes"] if test_nodes else []
        self._arguments += ["--allow-faults"] if allow_faults else []
        self._arguments += ["--of-2026"] if of_2026 else []
        for model in upscale_models:
            self._arguments += ["--upscale-model", model]
        if simulated_models is not None:
            self._arguments += _options(simulated_models)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The process id. Raises WorkerProcessError if none was started."""
        if self._process is None:
            raise WorkerProcessError("The worker process is not running.")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it and wait until it answers. Raises WorkerProcessError if it does not."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "comfy_proxy.embedded", "--port", str(self.port)),
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                line = await self._ready_line(self._process)
        except TimeoutError:
            await self.kill()
            raise WorkerProcessError(
                f"The worker said nothing for {START_TIMEOUT_S:.0f} s after its start."
            ) from None
        except BaseException:
            await self.kill()
            raise
        self.port = int(json.loads(line)["url"].rsplit(":", 1)[1])

    async def _ready_line(self, process: asyncio.subprocess.Process) -> bytes:
        line = await process.stdout.readline() if process.stdout is not None else b""
        if not line:
            raise WorkerProcessError(f"The worker on port {self.port} ended before it was ready.")
        return line

    async def stop(self) -> None:
        """Ask it to end (SIGTERM) and wait; it is killed after STOP_TIMEOUT_S."""
        if self._process is None:
            return
        if self.running:
            self.signal(signal.SIGCONT)  # a frozen process would not see the next one
            self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._gone()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """SIGKILL, and wait until the kernel has cleaned up."""
        if self.running:
            self.signal(signal.SIGKILL)
        await self._gone()

    async def _gone(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        await process.wait()
        if process.stdin is not None:
            process.stdin.close()

    async def wait(self) -> int:
        """Wait until it ends by itself; the exit code."""
        return await self._process.wait() if self._process is not None else 0

    async def restart(self) -> None:
        """Kill it if it runs and start it again on the same port; its files stay."""
        await self.kill()
        await self.start()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens if it has just ended by itself.

        Raises WorkerProcessError if none was started.
        """
        if self._process is None:
            raise WorkerProcessError("The worker process is not running.")
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def freeze(self) -> None:
        """SIGSTOP: connections are accepted by the kernel, nothing is ever answered."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: it goes on where it was."""
        self.signal(signal.SIGCONT)


def _options(models: SimulatedModels) -> list[str]:
    """The command line of simulated models, as `__main__.py` reads it."""
    files = [f"--simulated-model={name}={size}" for name, size in models.files.items()]
    times = [f"--load-seconds={models.load_s}", f"--speed={models.speed}"]
    return [*files, f"--vram={models.vram}", *times]
