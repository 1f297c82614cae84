"""Who has a prompt: the owner on record, else whoever says that it has it.

An owner is not on record after a restart of the proxy, nor if the prompt did not come through it.
Whoever is found to have the prompt is recorded as its owner from then on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import NoHealthyInstanceError
from comfy_proxy.gateway.exchange.fanout import Answer, answers_of_all, nobody_answers
from comfy_proxy.gateway.exchange.scanned import ScannedAnswer, ask_queue
from comfy_proxy.ledger.events import Found
from comfy_proxy.ledger.ledger import Ledger

A = TypeVar("A", Answer, ScannedAnswer)
Asking = Callable[[list[Instance]], Awaitable[dict[Instance, A]]]
"""Asks these instances; those that fail are left out. Raises NoHealthyInstanceError if none of them
answers."""


class PromptOwners:
    """Finds the instance that has a prompt."""

    def __init__(self, cluster: Cluster, ledger: Ledger) -> None:
        self._cluster = cluster
        self._ledger = ledger

    async def known(self, prompt_id: str) -> Instance | None:
        """The owner on record; None if there is none, or it is away."""
        owner = self._ledger.owner(prompt_id)
        return owner if owner is not None and await self._cluster.healthy([owner]) else None

    async def runner(self, prompt_id: str) -> Instance | None:
        """Who runs the prompt by its ``/queue``; None if nobody does. All instances are asked.

        Raises NoHealthyInstanceError.
        """
        asking = partial(ask_queue, cluster=self._cluster)
        queues = await answers_of_all(self._cluster, asking)
        for instance, queue in queues.items():
            if queue is not None and prompt_id in queue.view().running:
                self._ledger.apply(Found(prompt_id=prompt_id, instance=instance))
                return instance
        return None

    async def find(
        self, prompt_id: str, asking: Asking[A], found: Callable[[A], Any]
    ) -> tuple[Instance, A]:
        """The instance whose answer is ``found``, and that answer.

        The owner on record is asked first; the others hear of it only if the owner does not have
        it, or does not answer. If nobody has it: any of the answers, one with status 200 before
        others. Raises NoHealthyInstanceError if nobody answers.
        """
        owner = await self.known(prompt_id)
        others = [one for one in self._cluster.instances if one is not owner]
        answers: dict[Instance, A] = {}
        for group in ([owner] if owner else []), others:
            try:
                told = await asking(group)
            except NoHealthyInstanceError:
                continue
            answers |= told
            for instance, answer in told.items():
                if found(answer):
                    self._ledger.apply(Found(prompt_id=prompt_id, instance=instance))
                    return instance, answer
        if not answers:
            raise nobody_answers()
        return min(answers.items(), key=lambda item: item[1].status != 200)
