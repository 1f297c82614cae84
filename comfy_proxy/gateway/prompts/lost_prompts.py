"""Which prompts were lost with the process of their instance: asked for, and told to the ledger.

ComfyUI keeps its queue in memory: a process that ends takes along what waited and what ran there. A
prompt counts as lost only if that is proven: nobody listens at the address any more, or a ComfyUI
answers there that has the prompt neither in its queue nor in its history. One that stands still has
lost what its thread had taken when it died, and nothing else (``cluster/standstill.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_lists import history_path
from comfy_proxy.cluster.translation import nobody_listens
from comfy_proxy.errors import InstanceError, InstanceUnreachableError
from comfy_proxy.gateway.exchange.scanned import ask_history, ask_queue
from comfy_proxy.ledger import events
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.ledger.states import State

ASK_TIMEOUT_S = 5.0
"""Seconds for each answer of an instance that may have lost its queue. One that takes longer is
asked again when a check of it passes, or when there is a new doubt about it."""


class LostPrompts:
    """Settles the doubts about instances that were away."""

    def __init__(self, cluster: Cluster, ledger: Ledger) -> None:
        self._cluster = cluster
        self._ledger = ledger

    async def settle(self, instance: Instance) -> None:
        """Settle the doubts about ``instance``; they stay if it cannot be asked now."""
        doubt, doubtful = self._ledger.doubt, self._ledger.doubtful(instance)
        lost = await self._lost_of(doubtful, instance)
        if lost is None:
            return
        suspect = self._ledger.suspect(instance)
        taken = [one for one in lost if not _is_troubled(one, instance)]
        if taken:  # by the thread of an instance that stands still, which died over it
            suspect = taken[0]
        elif lost:
            self._ledger.apply(events.Restarted(instance=instance))
            self._cluster.planner.restarted(instance)
        for prompt in lost:
            if prompt.at(instance) and prompt.state in (State.QUEUED, State.RUNNING):
                self._lose(prompt, instance, ran=prompt is suspect)
        self._ledger.apply(events.Cleared(instance=instance, doubt=doubt))

    def _lose(self, prompt: Prompt, instance: Instance, *, ran: bool) -> None:
        self._ledger.apply(events.Lost(prompt=prompt, ran=ran))
        if prompt.ended:
            return
        with prompt.context():
            logger.bind(instance=instance.host).warning(
                "prompt {} was lost with {}{} and {}",
                prompt.prompt_id,
                instance.host,
                ", which ran it," if ran else "",
                "will go on elsewhere" if prompt.fatal is None else "is given up",
            )

    async def _lost_of(
        self, prompts: Sequence[Prompt], instance: Instance
    ) -> Sequence[Prompt] | None:
        """Which of ``prompts``, all accepted by ``instance``, were lost with its process; None if
        it cannot be asked now.

        All of them if nobody listens at its address or a process that was started again knows
        nothing at all. Else each is looked for by its id, since others may have been submitted
        there since: in the queue first, because ComfyUI moves a prompt from there to its history
        without a gap (PROTOCOL.md trap 15). What is in neither though there was no trouble with
        the instance was deleted by somebody there.
        """
        if not instance.stands_still:
            prompts = [one for one in prompts if _is_troubled(one, instance)]
        try:
            queue = await ask_queue(instance, self._cluster, timeout_s=ASK_TIMEOUT_S)
            if queue is None:
                return None
            if queue.empty and await self._asked("/history?max_items=1", instance) == {}:
                return prompts
            view = queue.view()
            absent = [prompt for prompt in prompts if prompt.prompt_id not in view]
            return [prompt for prompt in absent if not await self._has_ended(prompt, instance)]
        except InstanceError as error:
            return prompts if nobody_listens(error) else None

    async def _has_ended(self, prompt: Prompt, instance: Instance) -> bool:
        history = await self._asked(history_path(prompt.prompt_id), instance)
        if history is None:  # an error, a login page: that proves nothing
            raise InstanceUnreachableError(f"{instance.host} has no usable history.")
        return prompt.prompt_id in history

    async def _asked(self, path: str, instance: Instance) -> Mapping[str, Any] | None:
        return await ask_history(instance, self._cluster, path, timeout_s=ASK_TIMEOUT_S)


def _is_troubled(prompt: Prompt, instance: Instance) -> bool:
    """Whether the process of ``instance`` may have ended since it was sent ``prompt``."""
    return instance.signs.troubled_since(prompt.attempts[-1].sent_at)
