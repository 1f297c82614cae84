"""Which instances an operator has drained (``cluster/drains.py``), by their URLs, so that a restart
of the proxy gives none of them work: its operator may be taking it apart.
"""

from __future__ import annotations

from typing import Final

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.drains import label
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.state.by_url import ByUrl
from comfy_proxy.state.store import StateStore

DRAINED: Final = "drained"


class DrainedInstances:
    """Observes the drains of ``cluster``."""

    def __init__(self, store: StateStore, cluster: Cluster) -> None:
        self._store = store
        self._cluster = cluster

    async def restore(self) -> None:
        """Drain the instances that were drained, before anything is sent anywhere, and write what
        changes from then on. One that the configuration no longer has is forgotten: an operator
        who puts it back there wants it to work."""
        by_url = ByUrl(self._cluster.instances)
        for url, _ in await self._store.entries(DRAINED):
            instance = by_url.get(url)
            if instance is None or url != str(instance.url):
                self._store.delete(DRAINED, url)
            if instance is None:
                continue
            instance.drained = True
            self._changed(instance)
            logger.bind(instance=instance.host).warning(
                "instance {} ({}) is drained still: it gets no new work until it is resumed",
                instance.host,
                label(instance),
            )
        self._cluster.drains.on_change.append(self._changed)
        self._cluster.instances.on_removed.append(self._removed)

    def listen(self) -> None:
        """To be called when the cluster has started: ask drained instances in the background how
        long their queues are, or they would seem to be empty."""
        for instance in self._cluster.instances:
            if instance.drained:
                self._cluster.spawn(self._cluster.drains.drain(instance))

    def _removed(self, instance: Instance) -> None:
        """``instance`` has left: an operator who adds it again wants it to work."""
        self._store.delete(DRAINED, str(instance.url))

    def _changed(self, instance: Instance) -> None:
        if instance.drained and not instance.left:  # its removal drained it, and is told after it
            self._store.put(DRAINED, str(instance.url), b"")
        else:
            self._store.delete(DRAINED, str(instance.url))
