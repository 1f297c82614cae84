"""What work costs at each instance, kept by the instances' URLs."""

from __future__ import annotations

from typing import Final

from loguru import logger

from comfy_proxy.clock import Timer
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.ledger.events import Change
from comfy_proxy.lenient_json import dumps, loads
from comfy_proxy.state.by_url import ByUrl
from comfy_proxy.state.store import StateStore

COSTS: Final = "costs"
SAVE_AFTER_S: Final = 60.0
"""Seconds after the first end since the last write until all costs are written; a kill loses what
was learned in that time. Not more often, because each write is of all costs."""
_KEY: Final = "all"


class LearnedCosts:
    """Writes the costs SAVE_AFTER_S after a prompt has ended, and at the close."""

    def __init__(self, store: StateStore, cluster: Cluster) -> None:
        self._store = store
        self._cluster = cluster
        self._timer: Timer | None = None

    async def restore(self) -> None:
        """Take over what the file tells of instances that are still in the configuration."""
        clock, costs = self._cluster.clock, self._cluster.planner.costs
        by_url = ByUrl(self._cluster.instances)
        for _, data in await self._store.entries(COSTS):
            try:
                saved = loads(data)
                away_s = max(0.0, clock.now().timestamp() - saved["saved_at"])
                costs.restore(saved["costs"], by_url.get, now=clock.monotonic() - away_s)
            except (KeyError, TypeError, ValueError) as error:
                logger.error("the costs in the state file cannot be read: {}", error)

    def save(self) -> None:
        """Write the costs now, if any prompt has ended since the last write."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        clock = self._cluster.clock
        exported = self._cluster.planner.costs.export(_url, now=clock.monotonic())
        saved = {"saved_at": clock.now().timestamp(), "costs": exported}
        self._store.put(COSTS, _KEY, dumps(saved))

    def observe(self, change: Change) -> None:
        """An observer of the ledger: each end may have taught something."""
        if change.is_end and self._timer is None:
            self._timer = self._cluster.clock.call_later(SAVE_AFTER_S, self.save)


def _url(instance: Instance) -> str:
    return str(instance.url)
