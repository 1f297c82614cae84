"""Who has a prompt: the owner on record, else whoever says that it has it.

An owner is not on record after a restart of the proxy, nor if the prompt did not come through it.
Whoever is found to have the prompt is recorded as its owner from then on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, TypeVar

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import NoHealthyInstanceError, UnavailableError
from comfy_proxy.gateway.exchange.fanout import Answer, answers_of_all, nobody_answers
from comfy_proxy.gateway.exchange.scanned import ScannedAnswer, ask_queue
from comfy_proxy.gateway.views.history_entries import is_given_up
from comfy_proxy.ledger.events import Found
from comfy_proxy.ledger.ledger import Ledger

AWAY_RETRY_S: Final = 5
"""Seconds after which a client is to ask again for what an instance that is away has alone."""

A = TypeVar("A", Answer, ScannedAnswer)
Asking = Callable[[list[Instance]], Awaitable[dict[Instance, A]]]
"""Asks these instances; those that fail are left out. Raises NoHealthyInstanceError if none of them
answers."""


@dataclass(frozen=True, slots=True)
class Told(Generic[A]):
    """The ``answer`` of ``instance``; ``asked`` are all that answered."""

    instance: Instance
    answer: A
    asked: frozenset[Instance]


class PromptOwners:
    """Finds the instance that has a prompt."""

    def __init__(self, cluster: Cluster, ledger: Ledger) -> None:
        self._cluster = cluster
        self._ledger = ledger

    async def known(self, prompt_id: str) -> Instance | None:
        """The owner on record; None if there is none, or it is away: it is checked at once."""
        owner = self._ledger.owner(prompt_id)
        if owner is None or not await self._cluster.health_checker.answers(owner):
            return None
        return owner

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

    async def find(self, prompt_id: str, asking: Asking[A], found: Callable[[A], Any]) -> Told[A]:
        """The instance whose answer is ``found``, and that answer.

        The owner on record is asked first; the others hear of it only if the owner does not have
        it, or does not answer; one at which it was given up is not asked at all. If nobody has it:
        any of the answers, one with status 200 before others. Raises NoHealthyInstanceError if
        nobody answers.
        """
        owner = await self.known(prompt_id)
        others = [
            one
            for one in self._cluster.instances
            if one is not owner and not is_given_up(prompt_id, one, self._ledger)
        ]
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
                    return Told(instance, answer, frozenset(answers))
        if not answers:
            raise nobody_answers()
        instance, answer = min(answers.items(), key=lambda item: item[1].status != 200)
        return Told(instance, answer, frozenset(answers))

    def ended_away(self, prompt_id: str, asked: Container[Instance]) -> Instance | None:
        """The owner on record of a prompt that has ended, if it is none of those that were asked:
        that nobody has the prompt says nothing then."""
        owner, prompt = self._ledger.owner(prompt_id), self._ledger.find(prompt_id)
        last = None if prompt is None else prompt.attempt
        goes_on = prompt is not None and (last is None or last.end is None)
        return None if goes_on or owner in asked else owner


def away(owner: Instance) -> UnavailableError:
    """The error for a client that asks for what ``owner`` alone has."""
    return UnavailableError(
        f"ComfyUI instance {owner.id}, which has run this prompt, cannot be asked at the moment.",
        retry_after_s=AWAY_RETRY_S,
    )
