"""A block that can be cancelled from outside, by an event instead of a time."""

from __future__ import annotations

import asyncio


class CancelScope:
    """As :func:`asyncio.timeout` without a time: :meth:`cancel` ends what runs inside the block,
    and :meth:`left` tells at its end whether that was why.

    ``asyncio.timeout(None)`` does the same and costs three times as much, which every request that
    is forwarded pays twice.
    """

    __slots__ = ("_cancelling", "_task", "cancelled")

    def __init__(self) -> None:
        self.cancelled = False
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0

    def enter(self) -> None:
        """The block begins, in the current task. Raises RuntimeError outside a task."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("A block is cancelled in a task only.")
        self._task, self._cancelling = task, task.cancelling()

    def cancel(self) -> None:
        """End the block; nothing happens if it has ended, or was cancelled before."""
        if self._task is not None and not self.cancelled:
            self.cancelled = True
            self._task.cancel()

    def left(self, kind: type[BaseException] | None) -> bool:
        """The block has ended with an exception of ``kind``. True if that is a cancellation which
        only :meth:`cancel` has asked for: then the task goes on, and the caller says why."""
        task, self._task = self._task, None
        if not self.cancelled or task is None:
            return False
        alone = task.uncancel() <= self._cancelling
        return alone and kind is not None and issubclass(kind, asyncio.CancelledError)
