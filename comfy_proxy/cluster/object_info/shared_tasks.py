"""Questions under way, each once: whoever asks the same meanwhile waits for the same answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeVar

from loguru import logger

from comfy_proxy.errors import InstanceError
from comfy_proxy.tracing import untraced

T = TypeVar("T")


class SharedTasks:
    """Tasks by key, on behalf of nobody's request. Its length is how many are under way.

    ``doing`` says in the log what broke: ``asking for …``.
    Wait for one with :func:`asyncio.shield`: who leaves must not end it for the others.
    """

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._shared: dict[Hashable, asyncio.Task[Any]] = {}
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def get(self, key: Hashable) -> asyncio.Task[Any] | None:
        """The task of that key that is under way, if there is one."""
        return self._shared.get(key)

    def join(
        self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]], keep: Callable[[T], None]
    ) -> asyncio.Task[T]:
        """The task of that key; ``work`` begins if none is under way.

        ``keep`` gets its result before those who wait, unless it was forgotten meanwhile.
        """

        def ended(done: asyncio.Task[T]) -> None:
            if self._shared.get(key) is done:
                del self._shared[key]
                if not done.cancelled() and done.exception() is None:
                    keep(done.result())

        task: asyncio.Task[T] | None = self._shared.get(key)
        if task is None:
            task = self._shared[key] = self.start(work())
            task.add_done_callback(ended)
        return task

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin ``work``, which nobody else joins. An InstanceError that ends it is not logged."""
        task = asyncio.create_task(work, context=untraced())
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def forget(self, key: Hashable) -> None:
        """Its result is not kept: who waits gets it, and nobody after them."""
        self._shared.pop(key, None)

    async def close(self) -> None:
        """End all that is under way."""
        tasks = tuple(self._running)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, InstanceError):
            logger.opt(exception=error).error("{} broke", self._doing)
