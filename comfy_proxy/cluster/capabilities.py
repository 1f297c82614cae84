"""What each instance can run: node classes and model files, learnt from its ``/object_info``.

Only the classes that our workflows name are asked for, one small request each: the whole document
stops the instance's event loop for 67 ms and more (measured).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.node_inputs import choices as listed_values
from comfy_proxy.cluster.node_inputs import specs
from comfy_proxy.tracing import untraced

KEEP_S = 300.0
"""How long knowledge is used before it is asked anew: somebody may add a model file."""
KEEP_LACK_S = 10.0
"""How long "cannot run it" is believed: nothing tells us of a custom node just installed."""
_CONCURRENT_REQUESTS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """The classes of interest that one instance has. ``learnt_at`` is on the cluster's clock."""

    classes: Mapping[str, Mapping[str, Any]] = field(repr=False)
    learnt_at: float

    def has_class(self, name: str) -> bool:
        return name in self.classes

    def choices(self, class_name: str, input_name: str) -> tuple[str, ...] | None:
        """The enum of an input (model files, methods); None if it is no enum or unknown.

        ``/object_info`` writes it as ``[["a", "b"], {…}]`` or ``["COMBO", {"options": […]}]``.
        """
        for _, name, spec in specs(self.classes.get(class_name, {})):
            if name == input_name and (listed := listed_values(spec)) is not None:
                return tuple(str(item) for item in listed)
        return None


class CapabilityCache:
    """Asks each instance once, together for all who want to know, and again when it returns."""

    def __init__(
        self,
        clients: Mapping[Instance, ComfyUIClient],
        *,
        classes: Collection[str],
        clock: Clock,
    ) -> None:
        self._clients = clients
        self._classes = sorted(classes)
        self._clock = clock
        self._known: dict[Instance, Capabilities] = {}
        self._asking: dict[Instance, asyncio.Task[Capabilities]] = {}
        self._tasks: set[asyncio.Task[Capabilities]] = set()

    def known(self, instance: Instance) -> Capabilities | None:
        """What is known without asking; None if nothing is, or too old."""
        capabilities = self._known.get(instance)
        if capabilities and self._clock.monotonic() - capabilities.learnt_at <= KEEP_S:
            return capabilities
        return None

    def lacks(self, instance: Instance, runs: Callable[[Capabilities], bool]) -> bool:
        """True if it is freshly known that the instance fails ``runs``."""
        capabilities = self.known(instance)
        if capabilities is None or runs(capabilities):
            return False
        return self._clock.monotonic() - capabilities.learnt_at <= KEEP_LACK_S

    async def get(self, instance: Instance, *, newer_than_s: float = KEEP_S) -> Capabilities:
        """What is known, or asked now if that is older than ``newer_than_s``.

        Raises InstanceError when the instance does not answer.
        """
        capabilities = self._known.get(instance)
        if capabilities and self._clock.monotonic() - capabilities.learnt_at <= newer_than_s:
            return capabilities
        task = self._asking.get(instance)
        if task is None:
            task = asyncio.create_task(self._ask(instance), context=untraced())
            self._asking[instance] = task
            self._tasks.add(task)
            task.add_done_callback(lambda done: self._asked(instance, done))
        return await asyncio.shield(task)

    def forget(self, instance: Instance) -> None:
        """It was away: what comes back may be another installation."""
        self._known.pop(instance, None)
        self._asking.pop(instance, None)  # whoever waits gets the answer, nobody after them

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _asked(self, instance: Instance, task: asyncio.Task[Capabilities]) -> None:
        self._tasks.discard(task)
        learnt = not task.cancelled() and task.exception() is None
        if self._asking.get(instance) is task:
            del self._asking[instance]
            if learnt:
                self._known[instance] = task.result()

    async def _ask(self, instance: Instance) -> Capabilities:
        client = self._clients[instance]
        limit = asyncio.Semaphore(_CONCURRENT_REQUESTS)

        async def one(name: str) -> tuple[str, dict[str, Any] | None]:
            async with limit:
                return name, await client.node_info(name)

        begun = self._clock.monotonic()
        tasks = [asyncio.create_task(one(name)) for name in self._classes]
        try:
            answers = await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # after a failure the others are of no use
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return Capabilities(
            classes={name: info for name, info in answers if info is not None},
            learnt_at=begun,
        )
