"""How one accepted prompt gets to another instance: nothing is lost, nothing runs twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum

from loguru import logger

from comfy_proxy.clock import sleep
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.translation import nobody_listens
from comfy_proxy.errors import InstanceDiedError, InstanceError, InstanceTimeoutError
from comfy_proxy.gateway.prompts.posting import find_prompt, numbered_body, post_prompt
from comfy_proxy.ledger import events
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import ClientPost, Prompt

PAUSE_S = 1.0
MAX_ROUNDS = 600
"""How often, with ``PAUSE_S`` after each, a prompt in transit is offered to all instances, or one
that does not answer is asked again. Beyond these ten minutes it counts as not taken."""
MAX_REFUSALS = 3
"""Rounds in which an instance answered and refused; after them no instance will take the prompt."""

Stage = Callable[[Prompt, Instance], Awaitable[bool]]
"""Bring the files that a prompt names to an instance; False if it must not run there."""


class Arrival(Enum):
    """How the way of a prompt ended."""

    TAKEN = "taken"
    """The instance that took it is the prompt's own now."""
    REFUSED = "refused"
    STOPPED = "stopped"
    """A client has deleted it, it was replaced, or it has been the end of too many processes."""


class Transfer:
    """Takes prompts away, submits them elsewhere, withdraws them."""

    def __init__(self, cluster: Cluster, ledger: Ledger, stage: Stage) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._stage = stage

    async def take_away(self, prompt: Prompt, busy: Instance) -> bool:
        """True if it was pending at ``busy`` and is no more. A deletion from now on is heard.

        Raises InstanceError before anything was changed.
        """
        client = self._cluster.clients[busy]
        queue, history = await asyncio.gather(client.queue(), client.history(prompt.prompt_id))
        if prompt.prompt_id not in queue.pending or history is not None:
            return False
        for _ in range(MAX_ROUNDS):
            try:
                return await client.delete(prompt.prompt_id)
            except InstanceError as error:
                if nobody_listens(error):
                    return True  # its process has ended, and its queue with it
                logger.warning("{} does not say what it deleted: {}", busy.host, error.message)
            await sleep(self._cluster.clock, PAUSE_S)
        return False

    async def submit(
        self, prompt: Prompt, post: ClientPost, targets: list[Instance], placement: Placement
    ) -> Arrival:
        """Submit it to the first of ``targets`` that takes it, else to any instance that does.

        ``placement`` is its place at one of them.
        """
        refusals = 0
        body = numbered_body(prompt, post, prompt.number)
        for _ in range(MAX_ROUNDS):
            answered = False
            for target in targets:
                if prompt.deleted or prompt.ended:
                    return Arrival.STOPPED
                placement.in_queue = target is placement.instance
                status = await self._submit_to(prompt, post, body, target)
                if status == 200:
                    return Arrival.TAKEN
                if prompt.fatal is not None:
                    return Arrival.STOPPED
                answered |= status is not None
            refusals += answered
            if refusals >= MAX_REFUSALS:
                break
            await sleep(self._cluster.clock, PAUSE_S)
            targets = [
                target
                for target in self._cluster.instances
                if target.healthy and await self._stage(prompt, target)
            ]
        logger.error("prompt {} could not be submitted again anywhere", prompt.prompt_id)
        return Arrival.REFUSED

    async def _submit_to(
        self, prompt: Prompt, post: ClientPost, body: bytes, target: Instance
    ) -> int | None:
        """The status of the answer; None without one."""
        self._ledger.apply(events.Sent(prompt=prompt, instance=target))
        status, died = None, False
        try:
            status = (await post_prompt(prompt, post, target, self._cluster, body)).status
        except InstanceTimeoutError:
            status = 200 if await self._turned_up(prompt, target) else None
        except InstanceError as error:
            logger.warning("a moved prompt was not taken by {}: {}", target.host, error.message)
            died = isinstance(error, InstanceDiedError)
        if prompt.ended:  # a newer prompt has taken its id meanwhile: it is left where it is
            return status
        if status == 200:
            self._ledger.apply(
                events.Accepted(prompt=prompt, prompt_id=prompt.prompt_id, number=prompt.number)
            )
            return status
        if status is not None:
            logger.warning("a moved prompt was refused by {}: {}", target.host, status)
        self._ledger.apply(events.Refused(prompt=prompt, instance=target, died=died))
        return status

    async def _turned_up(self, prompt: Prompt, target: Instance) -> bool:
        """``target`` fell silent with the prompt in hand: wait until it says what it did."""
        for _ in range(MAX_ROUNDS):
            try:
                return await find_prompt(prompt.prompt_id, target, self._cluster) is not None
            except InstanceError as error:
                if nobody_listens(error):
                    return False
            await sleep(self._cluster.clock, PAUSE_S)
        return False

    async def withdraw(self, prompt: Prompt) -> None:
        """It was deleted while it was on its way: it ends deleted, where it has arrived."""
        target = prompt.instance
        if target is None:
            return
        client = self._cluster.clients[target]
        try:
            left = not await client.delete(prompt.prompt_id)
            if left and prompt.prompt_id in (await client.queue()).running:
                await client.interrupt(prompt.prompt_id)
        except InstanceError as error:
            logger.warning("a deleted prompt stays at {}: {}", target.host, error.message)
        self._ledger.apply(events.Deleted(prompt_ids=[prompt.prompt_id], running=True))
