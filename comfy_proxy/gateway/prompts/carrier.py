"""How one prompt gets from one instance to another: nothing is lost, nothing runs twice."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from loguru import logger

from comfy_proxy.clock import sleep
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.translation import nobody_listens
from comfy_proxy.errors import InstanceDiedError, InstanceError, InstanceTimeoutError
from comfy_proxy.gateway.files.staging import stage_inputs
from comfy_proxy.gateway.prompts.moving import MovingPrompt
from comfy_proxy.gateway.prompts.posting import ForwardedPrompt, find, post

if TYPE_CHECKING:
    from comfy_proxy.gateway.gateway import Gateway

PAUSE_S = 1.0
MAX_ROUNDS = 600
"""How often, with a pause after each, a prompt on its way is offered to all instances."""
MAX_REFUSALS = 3


class Carrier:
    """Takes prompts away, brings them, withdraws them."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def take_away(self, prompt: ForwardedPrompt, busy: Instance) -> bool:
        """True if it was pending at ``busy`` and is no more. A deletion from now on is heard.

        Raises InstanceError before anything was changed.
        """
        client = self._gateway.cluster.clients[busy]
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
            await sleep(self._gateway.cluster.clock, PAUSE_S)
        return False

    async def arrive(
        self,
        prompt: ForwardedPrompt,
        moving: MovingPrompt,
        targets: list[Instance],
        placement: Placement,
    ) -> Instance | None:
        """Submit it: there, or back where it was, or wherever an instance takes it.

        None if a client has deleted it meanwhile, every instance refuses it, or it is ``fatal``.
        """
        gateway, refusals = self._gateway, 0
        body = prompt.with_number(moving.queue_entry[0])
        for _ in range(MAX_ROUNDS):
            answered = False
            for target in targets:
                if moving.cancelled:
                    return None
                placement.in_queue = target is placement.instance
                gateway.sent(moving, target)
                status = await self._submit(prompt, body, target)
                if status == 200:
                    return target
                gateway.refused(moving)
                if prompt.fatal is not None:
                    return None
                answered |= status is not None
            refusals += answered
            if refusals >= MAX_REFUSALS:
                break
            await sleep(gateway.cluster.clock, PAUSE_S)
            targets = [
                target
                for target in gateway.cluster.instances
                if target.healthy
                and await stage_inputs(prompt.graph, target, gateway, gateway.node_info(target))
            ]
        logger.error("prompt {} could not be submitted again anywhere", prompt.prompt_id)
        return None

    async def _submit(self, prompt: ForwardedPrompt, body: bytes, target: Instance) -> int | None:
        """The status of the answer; None without one."""
        try:
            answer = await post(prompt, target, self._gateway, body)
        except InstanceTimeoutError:
            return 200 if await self._turned_up(prompt, target) else None
        except InstanceError as error:
            logger.warning("a moved prompt was not taken by {}: {}", target.host, error.message)
            if isinstance(error, InstanceDiedError):
                prompt.fatal = prompt.tries.lost_running()
            return None
        if answer.status != 200:
            logger.warning("a moved prompt was refused by {}: {}", target.host, answer.status)
        return answer.status

    async def _turned_up(self, prompt: ForwardedPrompt, target: Instance) -> bool:
        """``target`` fell silent with the prompt in hand: wait until it says what it did."""
        for _ in range(MAX_ROUNDS):
            try:
                return await find(prompt, target, self._gateway) is not None
            except InstanceError as error:
                if nobody_listens(error):
                    return False
            await sleep(self._gateway.cluster.clock, PAUSE_S)
        return False

    async def withdraw(self, prompt: ForwardedPrompt, target: Instance) -> None:
        """It was deleted while it was on its way: it ends deleted."""
        client = self._gateway.cluster.clients[target]
        try:
            left = not await client.delete(prompt.prompt_id)
            if left and prompt.prompt_id in (await client.queue()).running:
                await client.interrupt(prompt.prompt_id)
        except InstanceError as error:
            logger.warning("a deleted prompt stays at {}: {}", target.host, error.message)
