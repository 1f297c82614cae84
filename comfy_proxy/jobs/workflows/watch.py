"""Templates are read again when their files change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from loguru import logger
from watchfiles import awatch

from comfy_proxy.jobs.workflows.directory import read_templates
from comfy_proxy.jobs.workflows.registry import WorkflowRegistry

_SETTLE_MS: Final = 200
"""Milliseconds without a further change before files are read: editors write in several steps."""

Changes = Callable[[Path], AsyncIterator[Any]]
"""Yields whenever something in a directory has changed."""


def file_changes(directory: Path) -> AsyncIterator[Any]:
    """As the operating system tells of them (inotify and its like); a directory that is removed
    ends it."""
    return awatch(directory, debounce=_SETTLE_MS * 5, step=_SETTLE_MS, recursive=False)


class TemplateWatch:
    """Keeps ``registry`` at what ``directory`` holds, from :meth:`start` to :meth:`close`."""

    def __init__(
        self, registry: WorkflowRegistry, directory: Path | None, changes: Changes = file_changes
    ) -> None:
        self._registry = registry
        self._directory = directory
        self._changes = changes
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Log what is wrong with the files, and begin to watch."""
        self._tell_problems()
        if self._directory is not None:
            self._begin(self._watch(self._directory))

    async def close(self) -> None:
        """Watch no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def read_soon(self) -> None:
        """Begin to :meth:`read`: on a network's file system nobody tells of changes."""
        self._begin(self.read())

    async def read(self) -> None:
        """Read the files now. A file that cannot be used leaves the workflow that it was before."""
        before = list(self._registry)
        read = await asyncio.to_thread(read_templates, self._directory, before)
        same = list(read.workflows.values()) == before
        if same and tuple(read.problems) == self._registry.problems:
            return
        self._registry.replace(read.workflows, read.problems)
        logger.info("workflows were read again: {}", ", ".join(self._registry.names()))
        self._tell_problems()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="read templates")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self, directory: Path) -> None:
        try:
            async for _ in self._changes(directory):
                await self.read()
        except OSError as error:
            logger.warning("{} is not watched any more: {}", directory, error)

    def _tell_problems(self) -> None:
        """All in one line: of many like each other the log has only the first ones."""
        if problems := self._registry.problems:
            found = " | ".join(map(str, problems))
            logger.error("workflow templates cannot be used: {}", found)
