"""The one thread of a worker in which prompts run, one at a time."""

import asyncio
import errno
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from comfy_proxy.embedded.asset_store import AssetStore
from comfy_proxy.embedded.faults import Faults, ThreadDiedError
from comfy_proxy.embedded.folders import Folders
from comfy_proxy.embedded.node_cache import NodeCache
from comfy_proxy.embedded.nodes.node_class import Json, NodeClass
from comfy_proxy.embedded.prompt_queue import PromptQueue
from comfy_proxy.embedded.prompt_run import Interrupted, PromptRun
from comfy_proxy.embedded.simulated_gpu import SimulatedGpu
from comfy_proxy.embedded.websocket import Sockets


class _Stopped(BaseException):
    """Ends the thread from inside a node; a BaseException, so no `except Exception` stops it."""


@dataclass(kw_only=True)
class Journal:
    """What happened in a worker, for tests to look at: ids in order, across restarts.

    `submitted`: accepted by POST /prompt; `started`: began to run; `executed`: ran to a
    successful end; `uploads`: `type/subfolder/name` of every file received; `loads`: simulated
    models that were loaded, by name.
    """

    submitted: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    executed: list[str] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)


class Executor:
    """Takes prompts from the queue and runs them in its thread.

    It is the `Outside` (`prompt_run.py`) of each run. `on_death` is called in that thread when the
    fault `die_at_node` strikes.
    """

    def __init__(
        self,
        *,
        name: str,
        folders: Folders,
        classes: Mapping[str, NodeClass],
        queue: PromptQueue,
        faults: Faults,
        journal: Journal,
        gpu: SimulatedGpu,
        assets: AssetStore | None,
        on_death: Callable[[], None],
    ) -> None:
        self.folders = folders
        self.client_id: str | None = None
        self._last_node_id: str | None = None
        self._classes = classes
        self._queue = queue
        self._faults = faults
        self._journal = journal
        self._on_death = on_death
        self._gpu = gpu
        self._assets = assets
        self._cache = NodeCache()
        self._interrupt = threading.Event()
        self._stopping = False
        self._forget = self._unload = False
        self._thread = threading.Thread(target=self._work, name=f"executor {name}", daemon=True)
        self.sockets: Sockets

    def start(self, sockets: Sockets) -> None:
        """Begin to take prompts; events go to `sockets`."""
        self.sockets = sockets
        self._thread.start()

    async def stop(self) -> None:
        """Stop as soon as the running node reports progress or sleeps; wait for the thread."""
        self._stopping = True
        self._queue.close()
        self._interrupt.set()
        if self._thread is not threading.current_thread():
            await asyncio.to_thread(self._thread.join)

    def interrupt(self) -> None:
        """End the running prompt; to be called only while there is one."""
        self._interrupt.set()

    def forget_results(self) -> None:
        """Empty the node cache before the next prompt (`POST /free`)."""
        self._forget = True

    def unload_models(self) -> None:
        """Empty the GPU, after the running prompt if there is one (`POST /free`)."""
        if self._queue.running_id() is None:
            self._gpu.unload()
        else:
            self._unload = True

    def node_of(self, client_id: str) -> str | None:
        """The node that is running for this client."""
        return self._last_node_id if self.client_id == client_id else None

    def _work(self) -> None:
        try:
            while True:
                # Cleared before the next prompt is taken: from then on an interrupt is meant for
                # it, and would be lost if it were cleared later.
                self._clear_interrupt()
                if self._unload:
                    self._unload = False
                    self._gpu.unload()
                if (item := self._queue.get()) is None:
                    return
                if self._forget:
                    self._forget, self._cache = False, NodeCache()
                self._journal.started.append(item.prompt_id)
                run = PromptRun(item, self._classes, self._cache, self)
                self.client_id = run.client_id
                result = run.execute()
                self._last_node_id = None
                self._queue.done(result)
                if run.client_id is not None:
                    end = {"node": None, "prompt_id": item.prompt_id}
                    self.sockets.send("executing", end, run.client_id)
        except (_Stopped, ThreadDiedError):
            return

    def _clear_interrupt(self) -> None:
        self._interrupt.clear()
        if self._stopping:
            raise _Stopped

    def executing(self, node_id: str) -> None:
        self._last_node_id = node_id

    def before_node(self, class_type: str) -> None:
        if self._faults.die_at_node in (class_type, "*"):
            self._on_death()
            raise _Stopped
        if self._faults.slow_node_s:
            self.wait_until(time.monotonic() + self._faults.slow_node_s)

    def completed(self, prompt_id: str) -> None:
        """Called before the end is sent: a test that hears of it finds it in the journal."""
        self._journal.executed.append(prompt_id)

    def named(self, ui: Json, prompt_id: str) -> Json:
        return ui if self._assets is None else self._assets.saved(ui, prompt_id)

    def check_interrupt(self) -> None:
        if self._interrupt.is_set():
            self._clear_interrupt()
            raise Interrupted

    def wait_until(self, deadline: float) -> None:
        self._interrupt.wait(max(0.0, deadline - time.monotonic()))
        self.check_interrupt()

    def save(self, picture: Image.Image, path: Any, **options: Any) -> None:
        if self._stopping:
            raise _Stopped
        if self._faults.disk_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        picture.save(path, **options)
