"""The ways of lost prompts to instances: one after the other, but none waits long for another one.

In turn, because where one goes depends on where those before it have gone, and a client's prompts
keep their order. An instance that hangs with one of them in hand may do so for ten minutes, though
(``transfer.MAX_ROUNDS``), and that is no reason for the others to wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from loguru import logger

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.prompts.worker import CLOSE_TIMEOUT_S
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.ledger.states import State
from comfy_proxy.tracing import untraced

HELD_UP_S = 5.0
"""Seconds for which the next prompt waits for the one before it to arrive. Beyond them that one is
late: it goes on alone, and the others pass over the instance that it is held up at."""


class Ways:
    """``on_late_end`` is called when a late one is there, or when there was news while it was on
    its way: then it may be others' turn, or its own once more."""

    def __init__(self, clock: Clock, on_late_end: Callable[[], None]) -> None:
        self._clock = clock
        self._on_late_end = on_late_end
        self._tasks: dict[Prompt, asyncio.Task[None]] = {}
        self._late: set[Prompt] = set()
        self._missed: set[Prompt] = set()
        self._at: dict[Prompt, Instance] = {}

    def __contains__(self, prompt: Prompt) -> bool:
        """It is on its way, and must not be sent on another one."""
        return prompt in self._tasks

    async def go(self, prompt: Prompt, way: Coroutine[None, None, None]) -> None:
        """Run ``way``, which takes ``prompt`` to an instance, in a task of its own; returns when it
        has ended, or is late."""
        task = asyncio.create_task(way, name="submit a lost prompt again", context=untraced())
        self._tasks[prompt] = task
        task.add_done_callback(lambda done: self._ended(prompt, done))
        try:
            async with self._clock.timeout(HELD_UP_S):
                await asyncio.wait([task])
        except TimeoutError:
            if prompt in self._tasks:
                self._late.add(prompt)

    def tries(self, prompt: Prompt, instance: Instance) -> None:
        """``prompt`` has come to ``instance``."""
        self._at[prompt] = instance

    def hold_up(self, instance: Instance) -> bool:
        """Whether a late one is there: what comes after it would be late as well."""
        return any(self._at.get(prompt) is instance for prompt in self._late)

    def answered(self, instance: Instance) -> None:
        """``instance`` has passed a check: those that are late may have passed it over."""
        self._missed |= {one for one in self._late if self._at.get(one) is not instance}

    async def close(self) -> None:
        """Return when all have ended; those that take longer than ``CLOSE_TIMEOUT_S`` are cut
        off."""
        tasks = tuple(self._tasks.values())
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, prompt: Prompt, task: asyncio.Task[None]) -> None:
        del self._tasks[prompt]
        self._at.pop(prompt, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            with prompt.context():
                logger.opt(exception=error).error("submitting a lost prompt again broke")
        if prompt in self._late:
            self._late.discard(prompt)
            if prompt in self._missed or prompt.state is not State.MOVING:
                self._on_late_end()
        self._missed.discard(prompt)
