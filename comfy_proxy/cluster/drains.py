"""Instances that an operator takes out of use for a while, and puts back.

A drained instance gets no new work, what waits there goes elsewhere, and what runs there ends. It
is still checked, and asked for what it alone can answer. Once it is empty it may be restarted, as
often as need be: it gets work again only by :meth:`Drains.resume`, or by a restart of the proxy
without a STATE_FILE (``state/drained.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from loguru import logger

from comfy_proxy.clock import Clock, wait_until
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.scheduler import Scheduler


class Drains:
    """Drains and resumes; ``on_change`` callbacks hear of each instance of which that has changed.

    ``learn_load`` asks an instance how long its queue is, and has it tell each change from then on.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        clock: Clock,
        learn_load: Callable[[Instance], Awaitable[None]],
    ) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._learn_load = learn_load
        self.on_change: list[Callable[[Instance], None]] = []

    async def drain(self, instance: Instance) -> None:
        """Give ``instance`` nothing new from now on; returns when it has told how long its queue
        is, or does not answer. A second call changes nothing."""
        if not instance.drained:
            logger.bind(instance=instance.host).warning(
                "instance {} ({}) is drained: it gets no new work", instance.host, label(instance)
            )
            self._set(instance, True)
        await self._learn_load(instance)

    def resume(self, instance: Instance) -> None:
        """Give ``instance`` work again, as soon as it is healthy; a second call does nothing."""
        if instance.drained:
            logger.bind(instance=instance.host).warning(
                "instance {} ({}) is resumed", instance.host, label(instance)
            )
            self._set(instance, False)

    async def empty(self, instance: Instance, timeout_s: float) -> bool:
        """Return when nothing waits or runs there, or it was resumed or removed; False after
        ``timeout_s``."""
        return await self._until(
            instance, timeout_s, lambda: not (instance.load and instance.drained) or instance.left
        )

    async def idle(self, instance: Instance, timeout_s: float) -> bool:
        """Return when nothing waits or runs there, or it was removed; False after ``timeout_s``."""
        return await self._until(instance, timeout_s, lambda: not instance.load or instance.left)

    async def _until(
        self, instance: Instance, timeout_s: float, condition: Callable[[], bool]
    ) -> bool:
        """Return True when ``condition()`` holds, False after ``timeout_s``. It is asked whenever
        the instance tells the length of its queue or is away, and when a place is given back."""
        changed = asyncio.Event()

        def happened(_instance: Instance) -> None:
            changed.set()

        instance.prompts.on_load.append(changed.set)
        instance.on_interruption.append(happened)
        self._scheduler.on_change.append(changed.set)
        self.on_change.append(happened)
        try:
            return await wait_until(self._clock, condition, changed, timeout_s)
        finally:
            instance.prompts.on_load.remove(changed.set)
            instance.on_interruption.remove(happened)
            self._scheduler.on_change.remove(changed.set)
            self.on_change.remove(happened)

    def _set(self, instance: Instance, drained: bool) -> None:
        instance.drained = drained
        self.tell(instance)

    def tell(self, instance: Instance) -> None:
        """Whether ``instance`` takes work has changed: have the jobs that wait at the door, and the
        prompts that wait at instances, looked at again, and tell ``on_change``."""
        self._scheduler.door.open()
        self._scheduler.rebalancing.ask()
        for callback in tuple(self.on_change):
            callback(instance)


def label(instance: Instance) -> str:
    """How an operator finds ``instance`` in the configuration: its name, else its number."""
    return instance.name or f"number {instance.id}"
