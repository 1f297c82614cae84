"""Of a prompt whose client listens nowhere not even the beginning is told: it is asked for."""

from __future__ import annotations

from collections.abc import Iterable

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_lists import QUEUE, read_queue
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.exchange.scanned import ask_scanned
from comfy_proxy.ledger import events
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.states import State


class UnheardRuns:
    """Puts on record which clients' prompts run."""

    def __init__(self, cluster: Cluster, ledger: Ledger) -> None:
        self._cluster = cluster
        self._ledger = ledger

    async def ask(self, instances: Iterable[Instance]) -> None:
        """Ask each of ``instances`` what runs there; never fails. Jobs may wait behind what is
        found, so that it may be late concerns them too."""
        for busy in instances:
            if await self._ask(busy):
                self._cluster.scheduler.rebalancing.ask()

    async def _ask(self, busy: Instance) -> bool:
        """True if something runs there of which that was not known."""
        try:
            answer = await ask_scanned(busy, self._cluster, "/queue", QUEUE)
        except InstanceError as error:
            logger.info("{}: what runs there is not known: {}", busy.host, error.message)
            return False
        if (queue := read_queue(answer.root)) is None:
            return False
        running = queue.view().running
        found = [
            one
            for one in self._ledger.at(busy)
            if one.state is State.QUEUED and one.prompt_id in running
        ]
        for prompt in found:
            self._ledger.apply(events.Began(prompt_id=prompt.prompt_id, instance=busy))
        return bool(found)
