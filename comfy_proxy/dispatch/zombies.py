"""Prompts that an instance may still have though they went on elsewhere: none of them counts.

An instance that was cut off, or hung, comes back as it was, with its queue and what ran. Whatever
was given up there has had its second run elsewhere by then, or has it now. So before such an
instance gets anything else its part is ended: what waits is deleted, what runs interrupted, and
what ended meanwhile goes from its history. Its frames count for nobody (``ledger.is_elsewhere``).

What waits is deleted at once as well, though no answer may come: an instance that is slow, or whose
answers alone are lost, takes it up, and one that hangs finds it first when it goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Final
from weakref import WeakSet

from loguru import logger

from comfy_proxy.clock import sleep
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.hang_watch import InstanceHangsError
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.roster import ByInstance, cancelling
from comfy_proxy.errors import InstanceError
from comfy_proxy.ledger import events
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.prompt import End
from comfy_proxy.tracing import untraced

FENCE_TIMEOUT_S: Final = 10.0
"""Seconds in which an instance that is back has to let go of what was given up there. Beyond, it is
asked anew, and gets no work until it has: it works on a node that cannot be interrupted."""

_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 1.0
IN_HAND_S: Final = 1.0
"""Seconds after which an instance that hung with a POST in hand is asked once more: it may take up
that request after the first question."""


class Zombies:
    """Hears of what is given up, and ends it where it was."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._left = ByInstance[set[str]](lambda instance: set())
        self._unsure: WeakSet[Instance] = WeakSet()  # those that hung with a POST in hand
        self._tasks = ByInstance[asyncio.Task[None]]()
        self._telling = ByInstance[asyncio.Task[None]]()
        self._untold = ByInstance[list[str]](lambda instance: [])
        cluster.instances.on_removed += (cancelling(self._tasks), cancelling(self._telling))

    def __repr__(self) -> str:
        return f"<Zombies {sum(map(len, self._left.values()))} to be ended>"

    def observe(self, change: Change) -> None:
        """An observer of the ledger."""
        prompt, attempt, event = change.prompt, change.prompt.attempt, change.event
        if isinstance(event, events.Refused) and event.unsure:
            self._add(prompt.prompt_id, event.instance)
            self._unsure.add(event.instance)
        if attempt is None:
            return
        if isinstance(change.event, events.GivenUp) or (
            change.is_end and prompt.job is not None and _is_given_up(prompt.end)
        ):
            self._add(prompt.prompt_id, attempt.instance)
        elif change.is_acceptance:
            self._remove([prompt.prompt_id], attempt.instance)  # it is there once more, and counts

    def heard(self, instance: Instance) -> None:
        """For ``health_checker.on_success``: it answers again."""
        if not self._left[instance]:
            return
        task = self._tasks.get(instance)
        if task is None or task.done():
            self._tasks[instance] = asyncio.create_task(
                self._fence(instance), name=f"fence {instance.host}", context=untraced()
            )

    async def close(self) -> None:
        """End what is under way."""
        tasks = (*self._tasks.values(), *self._telling.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _add(self, prompt_id: str, instance: Instance) -> None:
        left = self._left[instance]
        if not left:
            instance.draining += 1  # no work before it has let go of this
        left.add(prompt_id)
        self._untold.setdefault(instance, []).append(prompt_id)
        if instance not in self._telling:
            self._telling[instance] = asyncio.create_task(
                self._tell(instance), name=f"delete at {instance.host}", context=untraced()
            )

    def _remove(self, prompt_ids: Collection[str], instance: Instance) -> None:
        left = self._left[instance]
        if left and not left.difference(prompt_ids):
            instance.draining -= 1
            self._cluster.scheduler.door.open()
        left.difference_update(prompt_ids)
        if untold := self._untold.get(instance):  # told late it would be of what is there anew
            untold[:] = [one for one in untold if one in left]

    async def _tell(self, instance: Instance) -> None:
        """Have what was given up deleted, whether or not anybody listens now: one that hangs does
        it before anything else, and its answer has it checked at once."""
        try:
            while prompt_ids := self._untold.pop(instance, None):
                await self._cluster.clients[instance].post("queue", {"delete": prompt_ids})
        except InstanceError as error:
            logger.debug("{} may not have heard what is given up: {!r}", instance.host, error)
        finally:
            self._telling.pop(instance, None)

    async def _fence(self, instance: Instance) -> None:
        if (telling := self._telling.get(instance)) is not None:
            # A deletion that came late would delete what was sent there anew.
            with suppress(TimeoutError):
                async with self._cluster.clock.timeout(FENCE_TIMEOUT_S):
                    await asyncio.wait([telling])
            telling.cancel()
        left = self._left[instance]
        while left:
            prompt_ids = frozenset(left)
            given_up = partial(left.intersection, prompt_ids)  # less what is sent there meanwhile
            try:
                async with self._cluster.clock.timeout(FENCE_TIMEOUT_S):
                    await self._end(given_up, instance)
                    if instance in self._unsure:
                        await sleep(self._cluster.clock, IN_HAND_S)
                        await self._end(given_up, instance)
                        self._unsure.discard(instance)
            except TimeoutError:
                logger.debug("{} is busy with what was given up there", instance.host)
                continue  # a node is interrupted when it is done
            except InstanceError as error:
                logger.debug("{} does not let go of what was given up: {!r}", instance.host, error)
                return  # until it passes the next check
            self._remove(prompt_ids, instance)

    async def let_go(self, prompt_ids: list[str], instance: Instance) -> None:
        """Have one that has left end them, as far as it does within FENCE_TIMEOUT_S."""
        try:
            async with self._cluster.clock.timeout(FENCE_TIMEOUT_S):
                await self._end(lambda: prompt_ids, instance)
        except (InstanceError, TimeoutError) as error:
            logger.info("{} does not let go of what was there: {!r}", instance.host, error)

    async def _end(self, given_up: Callable[[], Collection[str]], instance: Instance) -> None:
        """In this order: what waits must not begin in the moment in which what runs is ended.

        ``given_up`` is asked before each step: one that is taken there again is left alone.
        """
        client = self._cluster.clients[instance]
        await client.post("queue", {"delete": sorted(given_up())})
        pause_s = _FIRST_PAUSE_S
        while running := set((await client.queue(fresh=True)).running).intersection(given_up()):
            for prompt_id in running:
                await client.interrupt(prompt_id)
            # Its entry is written when it has ended, and is to go as well.
            await sleep(self._cluster.clock, pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        ended = sorted(given_up())
        await client.post("history", {"delete": ended})
        logger.info("{} has let go of {} prompts that were given up", instance.host, len(ended))


def _is_given_up(end: End | None) -> bool:
    return end is not None and isinstance(end.error, InstanceHangsError)
