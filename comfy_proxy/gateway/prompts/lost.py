"""Clients' prompts that were lost with the process of their instance, and what becomes of them.

``doubt`` says that an instance was away. Once it is proven that its process ended
(``rescue.lost_prompts``) what waited there is submitted elsewhere at no cost, and what ran there
once more; what ran when two processes ended is given up (``cluster/retry_law.py``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from loguru import logger

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import PromptLostError
from comfy_proxy.gateway.prompts.carrier import Carrier
from comfy_proxy.gateway.prompts.moving import MovingPrompt
from comfy_proxy.gateway.prompts.posting import ForwardedPrompt
from comfy_proxy.gateway.prompts.rescue import Rescuer, lost_prompts

if TYPE_CHECKING:
    from comfy_proxy.gateway.gateway import Gateway
    from comfy_proxy.gateway.prompts.moves import PromptMover


class LostPrompts:
    """``doubtful``: what was at an instance of which nobody can say yet whether it lost its queue.

    What is proven to be lost counts as moving until it is at an instance again, or has ended.
    """

    def __init__(self, gateway: Gateway, mover: PromptMover, carrier: Carrier) -> None:
        self._gateway = gateway
        self._mover = mover
        self._rescuer = Rescuer(gateway, carrier)
        self._lost: dict[ForwardedPrompt, MovingPrompt] = {}
        self._ran: dict[Instance, ForwardedPrompt | None] = {}
        self.doubtful: dict[Instance, list[ForwardedPrompt]] = {}

    def __contains__(self, prompt: ForwardedPrompt) -> bool:
        return prompt in self._lost

    def __bool__(self) -> bool:
        """Whether there is anything to ask or to submit again."""
        return bool(self.doubtful or self._lost)

    def doubt(self, instance: Instance, prompts: list[ForwardedPrompt]) -> None:
        """``instance`` may have lost ``prompts``. What runs there is noted at the first doubt.

        Later ones change that only if an event has told of another prompt meanwhile: sockets end
        one after the other, and jobs give their places back in between.
        """
        doubtful = self.doubtful.setdefault(instance, [])
        doubtful += [prompt for prompt in prompts if prompt not in doubtful]
        running = self._mover.running.of(prompts, instance)
        if instance not in self._ran or (running is not None and running.began):
            self._ran[instance] = running

    async def submit_again(self, closing: asyncio.Event) -> None:
        """Submit elsewhere what is proven to be lost; what cannot be said or done now stays."""
        for instance in tuple(self.doubtful):
            prompts = self.doubtful[instance]
            lost = await lost_prompts(tuple(prompts), instance, self._gateway)
            if lost is not None:
                del self.doubtful[instance]
                ran = self._ran.pop(instance, None)
                for prompt in lost:
                    if prompt.instance is instance and prompt not in self._lost:
                        self._lose(prompt, instance, ran=prompt is ran)
        for prompt, moving in tuple(self._lost.items()):
            if closing.is_set():
                return
            with prompt.context():
                if await self._settle(prompt, moving):
                    del self._lost[prompt]
                    self._gateway.end_move(moving)

    def _lose(self, prompt: ForwardedPrompt, instance: Instance, *, ran: bool) -> None:
        prompt.fatal = prompt.tries.lost_running(prompt.node) if ran else None
        self._lost[prompt] = self._gateway.begin_move(prompt)
        with prompt.context():
            logger.bind(instance=instance.host).warning(
                "prompt {} was lost with {}{} and {}",
                prompt.prompt_id,
                instance.host,
                ", which ran it," if ran else "",
                "will go on elsewhere" if prompt.fatal is None else "is given up",
            )

    async def _settle(self, prompt: ForwardedPrompt, moving: MovingPrompt) -> bool:
        """True if it is at an instance again, was deleted or replaced, or is given up."""
        mover, outcomes = self._mover, self._gateway.outcomes
        if mover.replaced(prompt):  # by its id nothing can be said of it any more
            prompt.fatal = None
            return True
        if not mover.knows(prompt) or moving.cancelled:
            mover.discard(prompt.prompt_id)  # deleted
            outcomes.cancelled(prompt.prompt_id)
            prompt.fatal = None
            return True
        try:
            async with mover.spool.holding(prompt):
                return await self._place(prompt, moving)
        except PromptLostError as error:
            if mover.knows(prompt):
                mover.discard(prompt.prompt_id)
                outcomes.failed(prompt.prompt_id, error)
                return True
            return await self._settle(prompt, moving)  # it was deleted while it was read

    async def _place(self, prompt: ForwardedPrompt, moving: MovingPrompt) -> bool:
        mover, target = self._mover, None
        if prompt.fatal is None:
            target = await self._rescuer.rescue(prompt, moving)
        if prompt.fatal is not None:
            mover.discard(prompt.prompt_id)
            self._gateway.prompt_given_up(prompt, prompt.fatal)
            return True
        if target is None:
            return False
        lost_at, prompt.began = prompt.instance, False
        mover.arrived(prompt, target, lost_at)
        await mover.withdraw_if_cancelled(prompt, moving, target)
        return True
