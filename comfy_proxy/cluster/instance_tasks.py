"""A background task for each instance: what hears of an instance, and has work to do for it then.

It is a kind of work, such as looking for ends, of which one run at most is under way at each
instance. Work that belongs to no instance is a ``gateway/prompts/worker.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from weakref import WeakSet

from loguru import logger

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.roster import ByInstance, Roster
from comfy_proxy.tracing import untraced


class InstanceTasks:
    """Runs ``work`` for each instance that :meth:`begin` or :meth:`wake` names.

    A run is cancelled when its instance leaves ``instances``, and by :meth:`close`; after that none
    begins. What ``work`` raises goes to the log as an error and ends that run alone. ``name`` and
    the instance's host are the name of the task.
    """

    def __init__(
        self, instances: Roster, work: Callable[[Instance], Awaitable[None]], name: str
    ) -> None:
        self._work = work
        self._name = name
        self._tasks = ByInstance[asyncio.Task[None]]()
        self._news: WeakSet[Instance] = WeakSet()
        self._closed = False
        instances.on_removed.append(self.cancel)

    def __repr__(self) -> str:
        return f"<InstanceTasks {self._name!r} {'busy' if self.busy else 'idle'}>"

    @property
    def busy(self) -> bool:
        """Whether any run is under way."""
        return not all(task.done() for task in self._tasks.values())

    def begin(self, instance: Instance) -> None:
        """Run the work, unless a run for ``instance`` is under way."""
        task = self._tasks.get(instance)
        if self._closed or instance.left or not (task is None or task.done()):
            return
        self._tasks[instance] = asyncio.create_task(
            self._run(instance), name=f"{self._name} {instance.host}", context=untraced()
        )

    def wake(self, instance: Instance) -> None:
        """There is news of ``instance``: run the work, and once more if a run is under way, which
        may have looked too early."""
        self._news.add(instance)
        self.begin(instance)

    def cancel(self, instance: Instance) -> None:
        """End the run that is under way for ``instance``, if any; the next may begin at once."""
        if (task := self._tasks.pop(instance, None)) is not None:
            task.cancel()

    async def over(self, instance: Instance) -> None:
        """Return when the run that is under way now for ``instance`` has ended."""
        task = self._tasks.get(instance)
        if task is not None and not task.done():
            await asyncio.wait([task])

    async def close(self) -> None:
        """End all runs, and begin none any more."""
        self._closed = True
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, instance: Instance) -> None:
        while True:
            self._news.discard(instance)
            try:
                await self._work(instance)
            except Exception as error:
                logger.opt(exception=error).error("it broke: {} {}", self._name, instance.host)
            if instance not in self._news:
                return
