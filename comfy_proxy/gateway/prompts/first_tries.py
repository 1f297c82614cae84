"""What is done at an instance where a client's prompt ran out of memory, before it runs once more.

Its entry goes from the history there, and the memory is freed. ComfyUI tells of the error before it
writes the entry: until then the prompt is in its queue, as the one that runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from loguru import logger

from comfy_proxy.clock import sleep
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.exchange.fanout import ask
from comfy_proxy.gateway.exchange.scanned import ask_queue
from comfy_proxy.ledger.prompt import Attempt, Prompt
from comfy_proxy.ledger.states import State
from comfy_proxy.tracing import untraced

CLEAR_AWAY_S = 5.0
"""Seconds in which everything that is to be done there has to be done. Beyond them the prompt runs
once more all the same, elsewhere if it can: an instance that hangs must not keep it any longer."""
MAX_SILENT = 1_000
"""So many first tries are remembered whose instance did not do it in time; the oldest one counts as
done after that, and its prompt may go back there."""
_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 1.0


class FirstTries:
    """Ends them, each in a task of its own; ``on_cleared`` is called when one of these has ended,
    whether or not the instance did what it was asked for."""

    def __init__(self, cluster: Cluster, on_cleared: Callable[[], None]) -> None:
        self._cluster = cluster
        self._on_cleared = on_cleared
        self._clearing: dict[Attempt, asyncio.Task[None]] = {}
        self._silent: dict[Attempt, None] = {}
        self._closing = False
        cluster.instances.on_removed.append(self._removed)

    def _removed(self, instance: Instance) -> None:
        for attempt in [one for one in self._silent if one.instance is instance]:
            del self._silent[attempt]

    def clear_away(self, prompt: Prompt) -> None:
        """Begin to leave nothing of ``prompt`` where it ran out of memory just now.

        Of an instance that does not answer there is nothing to be had, and nobody is shown anything
        of it either. Done once, be it that the prompt has nowhere to go for long: its memory is
        others' by then.
        """
        if self._closing:
            return
        attempt = prompt.attempts[-1]
        task = asyncio.create_task(
            self._clear_in_time(prompt, attempt), name="clear a first try away", context=untraced()
        )
        self._clearing[attempt] = task
        task.add_done_callback(lambda done: self._ended(attempt, done))

    def clearing(self, prompt: Prompt) -> bool:
        """It must not run once more yet."""
        return prompt.attempts[-1] in self._clearing

    async def close(self) -> None:
        """Cut off what is under way: nobody runs once more."""
        self._closing = True
        tasks = tuple(self._clearing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def in_order(self, prompt: Prompt, instances: Iterable[Instance]) -> list[Instance]:
        """``instances``, which are in the order in which it may go there otherwise: first where
        there is more memory if that is somewhere, else where memory was freed for it; last where
        that was asked for and not done in time."""
        failed = next((one for one in prompt.attempts if one.out_of_memory), None)
        if failed is None:
            return list(instances)
        avoided = self._cluster.gpu_memory.too_small(failed.instance, lambda instance: True)
        silent = failed.instance if failed in self._silent else None
        return sorted(
            instances,
            key=lambda one: (one is silent, one in avoided, one is not failed.instance),
        )

    async def _clear_in_time(self, prompt: Prompt, attempt: Attempt) -> None:
        with prompt.context():
            try:
                async with self._cluster.clock.timeout(CLEAR_AWAY_S):
                    await self._clear(prompt, attempt.instance)
            except TimeoutError:
                logger.warning("{} does not let go of a first try", attempt.instance.host)
                if not attempt.instance.left:
                    self._silent[attempt] = None
                if len(self._silent) > MAX_SILENT:
                    del self._silent[next(iter(self._silent))]
                self._cluster.planner.forget_loaded(attempt.instance)  # it was unloaded at least

    async def _clear(self, prompt: Prompt, instance: Instance) -> None:
        try:
            await self._wait_for_end(prompt, instance)
            await ask(
                instance, self._cluster, "POST", "/history", json={"delete": [prompt.prompt_id]}
            )
        except InstanceError as error:
            logger.info("the first try stays in {}: {}", instance.host, error.message)
        await self._cluster.gpu_memory.free(instance)

    async def _wait_for_end(self, prompt: Prompt, instance: Instance) -> None:
        """Return when ``instance`` is done with it, or it need not run once more."""
        pause_s = _FIRST_PAUSE_S
        while prompt.state is State.MOVING:
            queue = await ask_queue(instance, self._cluster)
            if queue is None or prompt.prompt_id not in queue.view():
                return
            await sleep(self._cluster.clock, pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _ended(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        del self._clearing[attempt]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.opt(exception=error).error("clearing a first try away broke")
        self._on_cleared()
