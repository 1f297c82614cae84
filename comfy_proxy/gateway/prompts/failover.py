"""Clients' prompts that were lost with the process of their instance go on elsewhere.

A sign that an instance was away raises a doubt about the prompts there. Once there is proof that
its process ended, what waited there is submitted elsewhere, as often as need be, and what ran there
once more; a prompt that ran when two processes ended fails (``cluster/retry_law.py``). What hung
(``hung_prompts.py``) and what ran out of memory (``dispatch/second_tries.py``) goes on in the same
way.
"""

from __future__ import annotations

import asyncio

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance, takes_work
from comfy_proxy.cluster.instance_tasks import InstanceTasks
from comfy_proxy.cluster.planning.decision import LOST
from comfy_proxy.dispatch.dispatcher import Dispatcher
from comfy_proxy.errors import ComfyProxyError, InstanceError, PromptLostError
from comfy_proxy.gateway.prompts.first_tries import FirstTries
from comfy_proxy.gateway.prompts.hung_prompts import require_repeatable
from comfy_proxy.gateway.prompts.lost_prompts import LostPrompts
from comfy_proxy.gateway.prompts.needs import Needs
from comfy_proxy.gateway.prompts.spool import PromptSpool
from comfy_proxy.gateway.prompts.transfer import Arrival, Transfer
from comfy_proxy.gateway.prompts.ways import Ways
from comfy_proxy.gateway.prompts.worker import Worker
from comfy_proxy.ledger import events
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import Attempt, ClientPost, End, Prompt
from comfy_proxy.ledger.states import Ending, State


class Failover:
    """Submits again what was lost; it looks at each :meth:`answered` and at each new doubt.

    An instance that hangs makes no others' prompts wait: each instance is asked in a task of its
    own what it has lost, and a prompt waits ``ways.HELD_UP_S`` at most for another one that is held
    up.
    """

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        dispatcher: Dispatcher,
        needs: Needs,
        *,
        lost_prompts: LostPrompts,
        transfer: Transfer,
        spool: PromptSpool,
    ) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._needs = needs
        self._lost_prompts = lost_prompts
        self._transfer = transfer
        self._spool = spool
        self._offered: set[Instance] = set()
        self._worker = Worker(self._submit_again, "submit lost prompts again")
        self._first_tries = FirstTries(cluster, on_cleared=self._worker.wake)
        self._ways = Ways(cluster.clock, on_late_end=self._worker.wake)
        self._askers = InstanceTasks(
            cluster.instances, self._settle_doubts, "ask for what was lost at"
        )
        ledger.observers.append(self._observe)

    def doubt(self, instance: Instance) -> None:
        """``instance`` was away, or is: it may have lost its queue.

        Prompts end in their order. So if more are on record than its last ``status`` counted, the
        first of them have probably ended, and were not the one that ran when the process ended.
        Nothing else is concluded: that frame may be older than the last prompts that it took.
        """
        prompts = [one for one in self._ledger.at(instance) if one.job is None]
        if not prompts:
            return
        first = prompts[: max(0, len(prompts) - instance.prompts.queue_remaining)]
        over = [prompt for prompt in first if not self._is_heard(prompt)]
        self._ledger.apply(events.Doubted(instance=instance, over=over))

    def answered(self, instance: Instance) -> None:
        """``instance`` has passed a check: lost prompts may be placed there now.

        Nothing is begun if the instance was healthy when the round that is under way began: a round
        makes checks of its own, and would begin anew for ever if a prompt can be placed nowhere.
        """
        if instance in self._offered:
            return
        self._ways.answered(instance)
        if self._lost():
            self._worker.wake()
        for one in self._cluster.instances:
            if self._ledger.doubtful(one):
                self._askers.wake(one)

    async def close(self) -> None:
        """Submit no more; what is on its way arrives first."""
        await asyncio.gather(self._worker.close(), self._askers.close(), self._first_tries.close())
        await self._ways.close()

    def _observe(self, change: Change) -> None:
        attempt = change.prompt.attempt
        match change.event:
            case events.Doubted(instance=instance):
                self._askers.wake(instance)
            case events.GivenUp() | events.BeginsAnew():
                self._worker.wake()
            case events.RanOutOfMemory():
                self._first_tries.clear_away(change.prompt)
            case events.Stayed() if attempt is not None and attempt.doubt is not None:
                self._askers.wake(attempt.instance)  # not to be asked for while it moved

    def _is_heard(self, prompt: Prompt) -> bool:
        """Its client listens, so its end would be known."""
        return prompt.client_id is not None and self._needs.listens(prompt.client_id)

    def _lost(self) -> list[Prompt]:
        """The prompts that are to be submitted again."""
        return [
            prompt
            for prompt in self._ledger.transit
            if prompt.state is State.MOVING and _is_left(prompt.attempts[-1])
        ]

    async def _submit_again(self) -> None:
        """One round; what cannot be placed now is tried in the next one."""
        self._offered = {one for one in self._cluster.instances if one.healthy}
        try:
            await self._settle_all()
        finally:
            self._offered = set()

    async def _settle_doubts(self, instance: Instance) -> None:
        """Ask ``instance`` what it has lost, and have that submitted again."""
        if self._ledger.doubtful(instance):
            await self._lost_prompts.settle(instance)
        if self._lost():
            self._worker.wake()

    async def _settle_all(self) -> None:
        for prompt in self._lost():
            if self._worker.closing:
                return
            if prompt in self._ways or self._first_tries.clearing(prompt):
                continue  # its end makes this look again
            if prompt.state is State.MOVING:  # else it has been replaced meanwhile
                await self._ways.go(prompt, self._settle(prompt))

    async def _settle(self, prompt: Prompt) -> None:
        """Submit ``prompt`` elsewhere, or end it as lost or cancelled. If neither can be done at
        the moment it stays as it is."""
        with prompt.context():
            error: ComfyProxyError | None = prompt.fatal
            if prompt.post is None:
                error = PromptLostError(
                    "It was lost with its instance, and ComfyUI alone can read it."
                )
            elif not prompt.deleted and error is None:
                try:
                    async with self._spool.holding(prompt):
                        require_repeatable(prompt)
                        await self._place(prompt, prompt.post)
                except PromptLostError as unreadable:
                    error = unreadable
            if prompt.state is State.MOVING:
                self._end(prompt, prompt.fatal or error)

    def _end(self, prompt: Prompt, error: ComfyProxyError | None) -> None:
        if prompt.deleted:
            self._finish(prompt, End(ending=Ending.CANCELLED))
        elif error is not None:
            self._finish(prompt, End(ending=Ending.LOST, error=error))

    def _finish(self, prompt: Prompt, end: End) -> None:
        self._ledger.apply(events.Finished(prompt=prompt, end=end))

    async def _place(self, prompt: Prompt, post: ClientPost) -> None:
        """Submit it where it can run; if that is nowhere at the moment nothing has changed, and it
        is tried again when an instance passes a check.

        Raises PromptLostError if every instance that answers refuses it.
        """
        by_finish = self._needs.in_order(prompt, self._cluster.instances)
        for target in self._first_tries.in_order(prompt, by_finish):
            if not takes_work(target) or self._ways.hold_up(target):
                continue
            self._ways.tries(prompt, target)
            if await self._needs.lacks(prompt, target) != 0:
                continue
            placement = self._cluster.scheduler.enter(target, prompt.work, prompt.standing)
            try:
                if await self._dispatcher.prepare(prompt, target, self._needs) is not None:
                    continue
                logger.bind(instance=target.host, prompt_id=prompt.prompt_id).debug(
                    "prompt {} goes to {}: {}", prompt.prompt_id, target.host, LOST
                )
                arrival = await self._transfer.submit(prompt, post, [target], placement)
            except InstanceError as error:
                logger.info("{} cannot take over a prompt: {}", target.host, error.message)
                continue
            finally:
                placement.release()
            if arrival is Arrival.REFUSED:
                raise PromptLostError("It has no instance any more, and no other one takes it.")
            if arrival is Arrival.TAKEN and prompt.deleted:
                await self._transfer.withdraw(prompt)
            return


def _is_left(attempt: Attempt) -> bool:
    """Whether the prompt has to begin anew."""
    return attempt.lost or attempt.given_up or attempt.out_of_memory
