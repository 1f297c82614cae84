"""Which instance has a prompt: its owner on record, else the one that says that it has the prompt.

No owner is on record of a prompt that did not come through the proxy, or came before a restart of
it without a STATE_FILE. The instance that is found to have the prompt is its owner from then on.
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
"""Seconds (``Retry-After``) after which a client is to ask again for what only an instance that is
away has."""

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
        """The instance whose ``/queue`` says that it runs the prompt; None if none does. All are
        asked. Raises NoHealthyInstanceError if none answers.
        """
        asking = partial(ask_queue, cluster=self._cluster)
        queues = await answers_of_all(self._cluster, asking)
        for instance, queue in queues.items():
            if queue is not None and prompt_id in queue.view().running:
                self._ledger.apply(Found(prompt_id=prompt_id, instance=instance))
                return instance
        return None

    async def find(self, prompt_id: str, asking: Asking[A], found: Callable[[A], Any]) -> Told[A]:
        """The first instance whose answer is ``found``, and that answer.

        The owner on record is asked first, and the others only if the owner does not have the
        prompt or does not answer; an instance at which it was given up is not asked. If none has
        the prompt this is any of the answers, one with status 200 before others. Raises
        NoHealthyInstanceError if none answers.
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
        """The owner on record of a prompt that is not known to go on, if the owner is none of
        ``asked``: that none of those has the prompt does not mean that nobody has it."""
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
