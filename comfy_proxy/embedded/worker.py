"""`EmbeddedWorker`: one worker inside this process, for tests and for `comfy_proxy.embedded`."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from comfy_proxy.embedded.asset_store import AssetStore
from comfy_proxy.embedded.executor import Executor, Journal
from comfy_proxy.embedded.faults import Faults
from comfy_proxy.embedded.folders import Folders
from comfy_proxy.embedded.instance import FEATURES, FEATURES_2026, Instance, queue_info
from comfy_proxy.embedded.life import Life
from comfy_proxy.embedded.local_server import LocalServer
from comfy_proxy.embedded.nodes import node_classes
from comfy_proxy.embedded.prompt_queue import PromptQueue
from comfy_proxy.embedded.simulated_gpu import SimulatedGpu, SimulatedModels
from comfy_proxy.embedded.websocket import Sockets


class EmbeddedWorker(LocalServer):
    """A ComfyUI instance inside this process: start it, break it, look at what it did.

    `base_directory` gets input, output, temp and user directories. `test_nodes` adds those
    of `nodes/testing.py`, `upscale_models` fills the enum of UpscaleModelLoader,
    `missing_nodes` takes classes out, `preview_metadata=False` is an older server without feature
    flags and type-4 frames, `allow_faults` opens `POST /embedded/faults`. `on_death` replaces the
    abrupt end that the fault `die_at_node` asks for (the process of its own exits instead).
    `simulated_models` adds SimulatedModelLoader and SimulatedSampler, and the memory of a GPU.
    `of_2026` makes it a newer server: `/api/jobs`, assets, ids of prompts that must be UUIDs.

    What it did is in its `journal`, and under the same names here: `submitted`, `started`,
    `executed`, `uploads`, `loads`. Not thread-safe: use it in one event loop.
    """

    def __init__(
        self,
        *,
        base_directory: Path,
        name: str = "embedded",
        test_nodes: bool = False,
        upscale_models: Sequence[str] = (),
        missing_nodes: Iterable[str] = (),
        preview_metadata: bool = True,
        allow_faults: bool = False,
        simulated_models: SimulatedModels | None = None,
        of_2026: bool = False,
        on_death: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.faults = Faults()
        self.journal = Journal()
        self.submitted = self.journal.submitted
        self.started = self.journal.started
        self.executed = self.journal.executed
        self.uploads = self.journal.uploads
        self.loads = self.journal.loads
        self.folders = Folders(base_directory)
        self._gpu = SimulatedGpu(simulated_models or SimulatedModels(), self.faults, self.loads)
        self._classes = node_classes(
            test_nodes=test_nodes,
            upscale_models=upscale_models,
            missing_nodes=missing_nodes,
            gpu=self._gpu,
        )
        self._upscale_models = tuple(upscale_models)
        self._assets = AssetStore(self.folders) if of_2026 else None
        self._features = (FEATURES_2026 if of_2026 else FEATURES) if preview_metadata else None
        self._allow_faults = allow_faults
        self._on_death = on_death
        self._life: Life | None = None
        self._dying: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        return self._life is not None

    @property
    def queue_remaining(self) -> int:
        """How many prompts wait or run; 0 while it is not running."""
        return self._life.instance.queue.remaining() if self._life is not None else 0

    @property
    def open_sockets(self) -> int:
        """How many WebSockets are connected now."""
        return len(self._life.instance.sockets) if self._life else 0

    async def start(self, port: int = 0) -> None:
        """Listen on the loopback; port 0 takes a free one. Raises OSError if it is taken."""
        if self._life is not None:
            raise RuntimeError("The worker runs already.")
        self.folders.prepare()
        self._gpu.unload()
        self.faults.stands_still = False  # that was the thread of the process before
        life = Life(self._instance(), allow_faults=self._allow_faults)
        self.faults.on_change = life.instance.queue.wake
        self.port = await life.start(port or self.port)
        self._life = life

    def _instance(self) -> Instance:
        loop = asyncio.get_running_loop()
        queue = PromptQueue(
            lambda remaining: sockets.send("status", {"status": queue_info(remaining)}, None),
            self.faults,
        )
        on_death = self._on_death or (lambda: _call_threadsafe(loop, self._die))
        executor = Executor(
            name=self.name,
            folders=self.folders,
            classes=self._classes,
            queue=queue,
            faults=self.faults,
            journal=self.journal,
            gpu=self._gpu,
            assets=self._assets,
            on_death=on_death,
        )
        sockets = Sockets(
            faults=self.faults,
            features=self._features,
            greeting=lambda: queue_info(queue.remaining()),
            executing=executor.node_of,
        )
        instance = Instance(
            name=self.name,
            folders=self.folders,
            classes=self._classes,
            upscale_models=self._upscale_models,
            gpu=self._gpu,
            features=self._features,
            faults=self.faults,
            journal=self.journal,
            queue=queue,
            executor=executor,
            sockets=sockets,
            assets=self._assets,
        )
        instance.actions["die"] = lambda _now: on_death()
        return instance

    def _die(self) -> None:
        self._dying = asyncio.get_running_loop().create_task(self.kill())

    async def stop(self) -> None:
        """End in order: requests answered, sockets closed with 1001, the thread joined."""
        await self._died()
        life, self._life = self._life, None
        if life is not None:
            await life.stop()

    async def kill(self) -> None:
        """End as a process does that is killed: every connection reset, nothing sent."""
        life, self._life = self._life, None
        if life is not None:
            await life.kill()

    async def restart(self, *, keep_files: bool = True) -> None:
        """Kill if needed and start on the same port: queue, history and temp files are gone.

        Input and output stay unless `keep_files` is False (PROTOCOL.md trap 5).
        """
        await self._died()
        await self.kill()
        if not keep_files:
            self.folders.wipe()
        await self.start(self.port)

    async def _died(self) -> None:
        """Wait for a death that a fault has begun."""
        if self._dying is not None:
            await self._dying
            self._dying = None

    def refuse_connections(self) -> None:
        """Close the listening socket: new connections are refused, open ones go on."""
        if self._life is not None:
            self._life.refuse()

    async def accept_connections(self) -> None:
        """Listen again on the same port."""
        if self._life is not None:
            await self._life.listen(self.port)

    def drop_sockets(self) -> None:
        """Reset every WebSocket now; the worker itself runs on."""
        if self._life is not None:
            self._life.instance.sockets.abort_all()

    def drop_connections(self) -> None:
        """Reset every connection now, HTTP and WebSocket."""
        if self._life is not None:
            self._life.abort_connections()

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        return f"<EmbeddedWorker {self.name} {self.host} {state}>"


def _call_threadsafe(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    loop.call_soon_threadsafe(function)
