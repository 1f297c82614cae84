"""Clients' prompts that are still at an instance when it is removed: they go on elsewhere.

There are some if the instance is removed by force, or while it is away. They go on as if it had
died (``failover.py``), except that none of them counts as a cause. Then the instance is told to end
them.
"""

from __future__ import annotations

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.dispatch.zombies import Zombies
from comfy_proxy.errors import PromptLostError
from comfy_proxy.ledger import events
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import End, Prompt
from comfy_proxy.ledger.states import Ending, State


class RemovedPrompts:
    """For ``cluster.membership``: :meth:`has_more`, :meth:`leaving`, then :meth:`farewell`."""

    def __init__(self, cluster: Cluster, ledger: Ledger, zombies: Zombies) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._zombies = zombies
        self._left_there: dict[Instance, list[str]] = {}

    def has_more(self, instance: Instance) -> bool:
        """Whether a client's prompt is there, as far as is on record."""
        return any(prompt.job is None for prompt in self._ledger.at(instance))

    def leaving(self, instance: Instance) -> None:
        """For ``on_leaving``: give up what is there."""
        there = self._ledger.at(instance)
        self._left_there[instance] = [prompt.prompt_id for prompt in there]
        for prompt in there:
            if prompt.job is None:  # our jobs follow their own
                self._give_up(prompt, instance)

    async def farewell(self, instance: Instance) -> None:
        """For ``farewells``: have ``instance`` end what was given up there."""
        if prompt_ids := self._left_there.pop(instance, []):
            await self._zombies.let_go(prompt_ids, instance)

    def observe(self, change: Change) -> None:
        """An observer of the ledger: a prompt that was on its way to an instance while that left is
        given up too, once its acceptance is booked for all observers."""
        self._cluster.membership.look()
        instance = change.prompt.instance
        if change.is_acceptance and change.prompt.job is None and instance and instance.left:
            self._left_there.setdefault(instance, []).append(change.prompt.prompt_id)
            self._cluster.spawn(self._taken_late(change.prompt, instance))

    async def _taken_late(self, prompt: Prompt, instance: Instance) -> None:
        self._give_up(prompt, instance)

    def _give_up(self, prompt: Prompt, instance: Instance) -> None:
        if prompt.state not in (State.QUEUED, State.RUNNING):
            return  # it moves: whoever moves it finds that the instance is gone
        if prompt.deleted:
            self._ledger.apply(events.Finished(prompt=prompt, end=End(ending=Ending.CANCELLED)))
        elif prompt.post is None:
            error = PromptLostError("Its instance was removed, and ComfyUI alone can read it.")
            end = End(ending=Ending.LOST, error=error)
            self._ledger.apply(events.Finished(prompt=prompt, end=end))
        else:
            self._ledger.apply(events.GivenUp(prompt=prompt, ran=False))
            with prompt.context():
                logger.bind(instance=instance.host).warning(
                    "prompt {} goes on elsewhere: {} is removed", prompt.prompt_id, instance.host
                )
