"""A request that ends an instance's process waits until that has nothing left to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from loguru import logger

from comfy_proxy.clock import Clock, wait_for_event
from comfy_proxy.cluster.drains import Drains
from comfy_proxy.cluster.instance import Instance

DRAIN_TIMEOUT_S: Final = 600.0
"""Seconds that an instance has to end what runs there, and what cannot go elsewhere. Beyond them it
is restarted all the same: clients' prompts and jobs go on elsewhere."""
SETTLE_S: Final = 10.0
"""Seconds after the answer to a restart for which nothing is sent there, unless it has gone
away before: it answers first and ends then."""


class Restarts:
    """Has instances run empty; :meth:`close` at the end."""

    def __init__(self, drains: Drains, clock: Clock) -> None:
        self._drains = drains
        self._clock = clock
        self._settling: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def empty(self, instance: Instance) -> AsyncIterator[None]:
        """Inside the block ``instance`` has nothing to do and is sent nothing, or has not come to
        that in ``DRAIN_TIMEOUT_S``."""
        instance.draining += 1
        self._drains.tell(instance)
        try:
            if not await self._drains.idle(instance, DRAIN_TIMEOUT_S):
                logger.warning(
                    "{} is restarted while {} prompts are there", instance.host, instance.load
                )
            yield
        finally:
            task = asyncio.create_task(self._settle(instance))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)

    async def close(self) -> None:
        """Wait for nothing any more."""
        tasks = tuple(self._settling)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _settle(self, instance: Instance) -> None:
        gone = asyncio.Event()

        def interrupted(_instance: Instance) -> None:
            gone.set()

        instance.on_interruption.append(interrupted)
        try:
            await wait_for_event(self._clock, gone, SETTLE_S)
        finally:
            instance.on_interruption.remove(interrupted)
            instance.draining -= 1
            self._drains.tell(instance)
