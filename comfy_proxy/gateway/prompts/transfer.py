"""How one accepted prompt gets to another instance: nothing is lost, nothing runs twice."""

from __future__ import annotations

import asyncio
from enum import Enum

from loguru import logger

from comfy_proxy.clock import sleep
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance, takes_work
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.translation import nobody_listens
from comfy_proxy.dispatch.dispatcher import Dispatcher
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.prompts.needs import Needs
from comfy_proxy.gateway.prompts.posting import ClientOrder
from comfy_proxy.ledger import events
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import ClientPost, Prompt
from comfy_proxy.ledger.states import State

PAUSE_S = 1.0
MAX_ROUNDS = 600
"""How often, with ``PAUSE_S`` after each, a prompt in transit is offered to all instances, or one
that does not say what it deleted is asked again. Beyond these ten minutes no instance has it."""
MAX_REFUSALS = 3
"""Rounds in which an instance answered and refused; after them no instance will take the prompt."""


class Arrival(Enum):
    """How the way of a prompt ended."""

    TAKEN = "taken"
    """The instance that took it is the prompt's own now."""
    REFUSED = "refused"
    """Instances that answer have refused it ``MAX_REFUSALS`` times."""
    NOBODY = "nobody"
    """No instance has answered in ``MAX_ROUNDS``."""
    STOPPED = "stopped"
    """A client has deleted it, it was replaced, or it has been the end of too many processes."""


class Transfer:
    """Takes prompts away, submits them elsewhere, withdraws them."""

    def __init__(
        self, cluster: Cluster, ledger: Ledger, dispatcher: Dispatcher, needs: Needs
    ) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._needs = needs

    async def take_away(self, prompt: Prompt, busy: Instance) -> bool:
        """True if it was pending at ``busy`` and is no more. A deletion from now on is heard.

        Not asked for again once it runs there, or was lost with the process there: it may be in
        that queue anew, put there by whoever saw to it. Raises InstanceError before anything was
        changed.
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
            if prompt.state is not State.MOVING or not prompt.at(busy):
                return False
        return False

    async def submit(
        self, prompt: Prompt, post: ClientPost, targets: list[Instance], placement: Placement
    ) -> Arrival:
        """Submit it to the first of ``targets`` that takes it, else to any instance that does.

        ``placement`` is its place at one of them.
        """
        order = ClientOrder(prompt, post, self._cluster)
        refusals = 0
        for _ in range(MAX_ROUNDS):
            answered = False
            for target in targets:
                if prompt.deleted or prompt.ended:
                    return Arrival.STOPPED
                status = await self._submit_to(order, target, placement)
                if status == 200:
                    return Arrival.TAKEN
                if prompt.fatal is not None:
                    return Arrival.STOPPED
                answered |= status is not None
            refusals += answered
            if refusals >= MAX_REFUSALS:
                logger.error("prompt {} was refused wherever it was sent", prompt.prompt_id)
                return Arrival.REFUSED
            await sleep(self._cluster.clock, PAUSE_S)
            targets = [
                target
                for target in self._who_takes_any()
                if target.healthy and await self._needs.stage(prompt, target)
            ]
        logger.error("prompt {} could not be submitted again anywhere", prompt.prompt_id)
        return Arrival.NOBODY

    def _who_takes_any(self) -> list[Instance]:
        """Those that take work; one that is to run empty before the prompt is lost."""
        instances = self._cluster.instances
        return [one for one in instances if takes_work(one)] or list(instances)

    async def _submit_to(
        self, order: ClientOrder, target: Instance, placement: Placement
    ) -> int | None:
        """The status of the answer; None without one."""
        own = target is placement.instance
        place = (
            placement
            if own
            else self._cluster.scheduler.enter(target, order.prompt.work, order.prompt.standing)
        )
        placement.in_queue = own
        try:
            receipt = await self._dispatcher.submit(order, place, patient=True)
        except InstanceError as error:
            logger.warning("a moved prompt was not taken by {}: {}", target.host, error.message)
            return None
        finally:
            if not own:
                place.release()
        if receipt.answer.status != 200:
            logger.warning(
                "a moved prompt was refused by {}: {}", target.host, receipt.answer.status
            )
        return receipt.answer.status

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
