"""Clients' prompts of an earlier process: booked in the ledger again, and asked for.

1. What an instance had taken is booked as taken by it, and as in doubt: whether it is there still,
   has ended or was lost meanwhile, is found out as after any outage of that instance
   (``gateway/prompts/failover.py``). What was lost goes on elsewhere.
2. What was not lost is asked for by its id (``gateway/prompts/reconciler.py``): its end may be in
   the history since before anybody listened.
3. What an instance was just being sent is looked for there. If it has it, it is booked as taken;
   if not, it is forgotten: its client was not told that it was taken, and may post it again.
4. What was on its way, or at an instance that is not in the configuration any more, goes on
   elsewhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.errors import InstanceError, UnavailableError
from comfy_proxy.gateway.prompts.posting import ClientOrder
from comfy_proxy.ledger import events
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import End, Prompt
from comfy_proxy.ledger.states import Ending
from comfy_proxy.state import prompt_record
from comfy_proxy.state.prompt_record import ReadPrompt
from comfy_proxy.state.prompt_state import BODY, PROMPT, PromptState
from comfy_proxy.state.store import StateStore

LookFor = Callable[[Sequence[Prompt], Instance], Awaitable[None]]


class PromptRecovery:
    """``look_for`` settles prompts at an instance by their ids; raises InstanceError."""

    def __init__(
        self,
        store: StateStore,
        state: PromptState,
        cluster: Cluster,
        ledger: Ledger,
        look_for: LookFor,
    ) -> None:
        self._store = store
        self._state = state
        self._cluster = cluster
        self._ledger = ledger
        self._look_for = look_for
        self._unsettled = ByInstance[set[Prompt]](lambda instance: set())

    async def restore(self) -> int:
        """Book the prompts that the file holds; returns how many. They are asked for in the
        background."""
        self._ledger.observers.append(self._observe)
        booked = 0
        for key, data in await self._store.entries(PROMPT):
            body = b"".join([piece async for piece in self._store.pieces(BODY, key)])
            if (read := self._read(key, data, body)) is not None:
                self._book(read)
                booked += 1
        for instance in tuple(self._unsettled):
            self._doubt(instance)
        return booked

    def _read(self, key: str, data: bytes, body: bytes) -> ReadPrompt | None:
        instances, clock = self._cluster.instances, self._cluster.clock
        try:
            one = prompt_record.read(data, body, instances, clock)
            if one.prompt.post is not None:
                one.prompt.work = self._cluster.graph_support.work(one.prompt.post.graph)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            logger.error("a prompt in the state file cannot be read: {!r}", error)
            self._state.forget(key)
            return None
        self._state.known(one.prompt, key)
        return one

    def _book(self, read: ReadPrompt) -> None:
        prompt = read.prompt
        at = read.at or self._cluster.instances[0]
        self._ledger.apply(events.Received(prompt=prompt))
        self._ledger.apply(events.Sent(prompt=prompt, instance=at))
        if not read.accepted:
            self._cluster.spawn(self._ask_whether_taken(prompt, at))
            return
        self._ledger.apply(
            events.Accepted(prompt=prompt, prompt_id=prompt.prompt_id, number=prompt.number)
        )
        if read.at is None:
            self._ledger.apply(events.Lost(prompt=prompt, ran=False))
        else:
            self._unsettled[at].add(prompt)

    def _doubt(self, instance: Instance) -> None:
        # What it does not have it has lost: nobody can say that its process did not end meanwhile.
        instance.signs.troubled()
        self._ledger.apply(events.Doubted(instance=instance))

    def _observe(self, change: Change) -> None:
        """An observer of the ledger: prompts whose fate is known, and instances whose doubt is
        settled, of which the rest is asked for by id."""
        prompt = change.prompt
        if change.is_end or isinstance(change.event, events.Lost):
            for prompts in self._unsettled.values():
                prompts.discard(prompt)
        elif isinstance(change.event, events.Cleared):
            instance = change.event.instance
            if instance in self._unsettled:
                prompts = self._unsettled.pop(instance)
                self._cluster.spawn(self._settle(instance, prompts))

    async def _settle(self, instance: Instance, prompts: set[Prompt]) -> None:
        try:
            await self._look_for([one for one in prompts if one.at(instance)], instance)
        except (InstanceError, UnavailableError) as error:
            logger.debug("{} does not say what has ended: {}", instance.host, error.message)
            left = {one for one in prompts if one.at(instance)}
            if left:
                self._unsettled[instance] |= left
                self._doubt(instance)

    async def _ask_whether_taken(self, prompt: Prompt, instance: Instance) -> None:
        assert prompt.post is not None
        receipt = None
        try:
            receipt = await ClientOrder(prompt, prompt.post, self._cluster).find(instance)
        except InstanceError as error:
            logger.debug("{} does not say what it has taken: {}", instance.host, error.message)
        if prompt.ended:
            return
        if receipt is None or receipt.prompt_id is None:
            self._ledger.apply(events.Refused(prompt=prompt, instance=instance))
            end = End(ending=Ending.REJECTED)
            self._ledger.apply(events.Finished(prompt=prompt, end=end))
            return
        self._ledger.apply(
            events.Accepted(prompt=prompt, prompt_id=receipt.prompt_id, number=receipt.number)
        )
        await self._settle(instance, {prompt})
