"""Entries of histories that clients delete while their instance does not answer: deleted there when
it does. It is remembered by this process alone."""

from __future__ import annotations

from typing import Final

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.instance_tasks import InstanceTasks
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.exchange.fanout import ask
from comfy_proxy.ledger.events import Change

MAX_LATE: Final = 10_000
"""Entries that are to be deleted at one instance, as many as ComfyUI keeps. Beyond it the one that
was deleted first is forgotten, and is in the history again when the instance is back."""


class LateDeletions:
    """Remembers what is to be deleted at which instance of ``cluster``; :meth:`close` at the
    end."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._left = ByInstance[dict[str, None]](lambda instance: {})
        self._tellers = InstanceTasks(cluster.instances, self._tell, "delete of the history of")

    def __repr__(self) -> str:
        return f"<LateDeletions {sum(map(len, self._left.values()))} entries>"

    def add(self, prompt_id: str, instance: Instance) -> None:
        """Delete the entry of that prompt, which has ended at ``instance``, when that answers."""
        left = self._left[instance]
        left[prompt_id] = None
        if len(left) > MAX_LATE:
            del left[next(iter(left))]

    def observe(self, change: Change) -> None:
        """An observer of the ledger: of a new prompt under a deleted id the entry is to stay."""
        if change.is_acceptance:
            for left in self._left.values():
                left.pop(change.prompt.prompt_id, None)

    def heard(self, instance: Instance) -> None:
        """For ``health_checker.on_success``: ``instance`` answers, so it can be told."""
        if self._left[instance]:
            self._tellers.begin(instance)

    async def close(self) -> None:
        """Tell nobody any more."""
        await self._tellers.close()

    async def _tell(self, instance: Instance) -> None:
        left = self._left[instance]
        while ids := list(left):
            try:
                await ask(instance, self._cluster, "POST", "/history", json={"delete": ids})
            except InstanceError as error:
                logger.debug("{} is to delete entries later: {}", instance.host, error.message)
                return
            for one in ids:
                left.pop(one, None)
