"""Prompts that an instance may still have though they went on elsewhere: ended where they were.

An instance that was cut off, or hung, comes back as it was, with its queue and what ran. The
prompts that were given up there have had a second run elsewhere by then, or have it now. So before
such an instance gets any other work (``Instance.draining``) those prompts are ended there: what
waits is deleted, what runs interrupted, and what ended meanwhile deleted from its history. What it
tells of them reaches no client (``ledger.is_elsewhere``).

The deletion is also sent at the moment of giving up, though no answer may come: an instance that is
slow, or whose answers alone are lost, acts on it, and one that hangs reads it before anything else
when it goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from functools import partial
from typing import Final
from weakref import WeakSet

from loguru import logger

from comfy_proxy.clock import sleep
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.hang_watch import InstanceHangsError
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.instance_tasks import InstanceTasks
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.errors import InstanceError
from comfy_proxy.ledger import events
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.prompt import End

FENCE_TIMEOUT_S: Final = 10.0
"""Seconds that an instance which is back has to end what was given up there. Beyond them it is
asked anew, and gets no work until it has: a node that runs may heed no interruption."""

_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 1.0  # between two looks whether what was interrupted has ended
IN_HAND_S: Final = 1.0
"""Seconds after which an instance that hung before it answered a ``POST /prompt`` is told once
more: it may read that request after the first deletion."""


class Zombies:
    """Observes which prompts are given up, and has their instances end them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._left = ByInstance[set[str]](lambda instance: set())
        self._unsure: WeakSet[Instance] = WeakSet()  # hung before they answered a POST /prompt
        self._untold = ByInstance[set[str]](lambda instance: set())  # of what is left
        self._fences = InstanceTasks(cluster.instances, self._fence, "fence")
        self._telling = InstanceTasks(cluster.instances, self._tell, "delete at")

    def __repr__(self) -> str:
        return f"<Zombies {sum(map(len, self._left.values()))} to be ended>"

    def observe(self, change: Change) -> None:
        """An observer of the ledger: what is given up, and what its instance takes anew."""
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

    def left_behind(self, prompt_id: str, instance: Instance) -> None:
        """For ``Dispatcher.left_behind``: end that prompt there as soon as the instance answers."""
        self._add(prompt_id, instance)
        self._cluster.health_checker.look(instance)

    def heard(self, instance: Instance) -> None:
        """For ``health_checker.on_success``: ``instance`` answers, so it can be told."""
        if self._left[instance]:
            self._fences.begin(instance)

    async def close(self) -> None:
        """End what is under way, and begin nothing more."""
        await asyncio.gather(self._fences.close(), self._telling.close())

    def _add(self, prompt_id: str, instance: Instance) -> None:
        left = self._left[instance]
        if not left:
            instance.draining += 1  # no work before it has let go of this
        left.add(prompt_id)
        self._untold[instance].add(prompt_id)
        self._telling.begin(instance)

    def _remove(self, prompt_ids: Collection[str], instance: Instance) -> None:
        left = self._left[instance]
        if left and not left.difference(prompt_ids):
            instance.draining -= 1
            self._cluster.scheduler.door.open()
        left.difference_update(prompt_ids)
        self._untold[instance].difference_update(prompt_ids)

    async def _tell(self, instance: Instance) -> None:
        """Send the deletion whether or not the instance answers now: one that hangs carries it out
        before anything else, and its late answer has it checked at once."""
        try:
            while prompt_ids := sorted(self._untold[instance]):
                self._untold[instance].clear()
                await self._cluster.clients[instance].post("queue", {"delete": prompt_ids})
        except InstanceError as error:
            logger.debug("{} may not have heard what is given up: {!r}", instance.host, error)

    async def _fence(self, instance: Instance) -> None:
        try:  # a deletion that came late would delete what was sent there anew
            async with self._cluster.clock.timeout(FENCE_TIMEOUT_S):
                await self._telling.over(instance)
        except TimeoutError:
            self._telling.cancel(instance)
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
        """Have an instance that was removed end these; given up after FENCE_TIMEOUT_S."""
        try:
            async with self._cluster.clock.timeout(FENCE_TIMEOUT_S):
                await self._end(lambda: prompt_ids, instance)
        except (InstanceError, TimeoutError) as error:
            logger.info("{} does not let go of what was there: {!r}", instance.host, error)

    async def _end(self, given_up: Callable[[], Collection[str]], instance: Instance) -> None:
        """Delete what waits, interrupt what runs, then delete the entries. In this order: what
        waits must not begin in the moment in which what runs is ended. Raises InstanceError.

        ``given_up`` is asked before each step: a prompt that is taken there again is left alone.
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
