"""Prompts of our clients at instances of which the ledger knows nothing.

A proxy that was restarted without STATE_FILE has forgotten them, and others come past it. A client
that has such a prompt needs a socket of its own there. So where more wait or run than the ledger
knows ``/queue`` is read, which names the client of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from loguru import logger

from comfy_proxy.clock import sleep
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.instance_tasks import InstanceTasks
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.events.session import EventSession
from comfy_proxy.gateway.exchange.scanned import ask_queue
from comfy_proxy.ledger.ledger import Ledger

PAUSE_S: Final = 1.0
"""Seconds between two looks at one instance; what comes meanwhile is seen by the next look."""


class UnknownPrompts:
    """Has those of ``sessions`` (by clientId) listen where such a prompt of theirs is."""

    def __init__(
        self, cluster: Cluster, ledger: Ledger, sessions: Mapping[str, EventSession]
    ) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._sessions = sessions
        self._counts = ByInstance[int]()
        self._lookers = InstanceTasks(cluster.instances, self._look, "clients of prompts at")

    def __repr__(self) -> str:
        return f"<UnknownPrompts {self._lookers}>"

    def told(self, instance: Instance) -> None:
        """``instance`` has told how long its queue is: there may be more of them."""
        before, self._counts[instance] = self._counts.get(instance, 0), self._count(instance)
        if self._counts.get(instance, 0) > before:
            self._lookers.wake(instance)

    def look(self) -> None:
        """There is a new client: any of them may be its own."""
        for instance in self._cluster.instances:
            if self._count(instance):
                self._lookers.wake(instance)

    def _count(self, instance: Instance) -> int:
        """How many wait or run there that the ledger does not know."""
        known = len(self._ledger.at(instance)) + len(self._ledger.submitting(instance))
        return max(0, instance.prompts.queue_remaining - known)

    async def close(self) -> None:
        """Look no more."""
        await self._lookers.close()

    async def _look(self, instance: Instance) -> None:
        if all(one.hears_itself(instance) for one in self._sessions.values()):
            return
        try:
            queue = await ask_queue(instance, self._cluster)
        except InstanceError as error:  # the next frame, or client, comes back here
            logger.debug("{} does not tell whose its prompts are: {}", instance.host, error.message)
            return
        for entry in (*queue.running, *queue.pending) if queue is not None else ():
            session = self._sessions.get(entry.client_id or "")
            known = self._ledger.find_at(entry.prompt_id or "", instance)
            if session is not None and known is None:
                session.listen_at(instance)
        await sleep(self._cluster.clock, PAUSE_S)
