"""A piece of work that is done whenever there is news for it, never twice at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from loguru import logger

from comfy_proxy.tracing import untraced

CLOSE_TIMEOUT_S = 10.0
"""Seconds that work which is under way has to come to its end when the proxy stops; then it is cut
off. A prompt that was taken away from one instance is to arrive at another, if that can be."""


class Worker:
    """Runs ``work`` in a task of its own, once more for news that came while it ran."""

    def __init__(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        self._work = work
        self._name = name
        self._news = False
        self._task: asyncio.Task[None] | None = None
        self.closing = False

    def __repr__(self) -> str:
        return f"<Worker {self._name!r} {'busy' if self.busy else 'idle'}>"

    def wake(self) -> None:
        """There is news."""
        self._news = True
        if not self.closing and not self.busy:
            self._task = asyncio.create_task(self._run(), name=self._name, context=untraced())

    async def close(self) -> None:
        """Begin nothing any more, and wait for what is under way."""
        self.closing = True
        if self._task is not None:
            await asyncio.wait([self._task], timeout=CLOSE_TIMEOUT_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def busy(self) -> bool:
        """It is at work."""
        return self._task is not None and not self._task.done()

    async def _run(self) -> None:
        try:
            while self._news and not self.closing:
                self._news = False
                await self._work()
        except Exception as error:
            logger.opt(exception=error).error("it broke: {}", self._name)
