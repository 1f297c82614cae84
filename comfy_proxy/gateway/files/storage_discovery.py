"""Finding out which instances share a directory, with ``SHARED_STORAGE=auto``.

Each health check that passes may start a discovery of that instance, one at a time for the whole
cluster: it is probed (``storage_probe.py``) with one member of each known group, for each kind of
directory. One that shares with nobody is its own group.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from loguru import logger

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.files.shared_storage import Group, SharedStorage
from comfy_proxy.gateway.files.storage_probe import have_one_directory
from comfy_proxy.tracing import untraced

if TYPE_CHECKING:
    from comfy_proxy.cluster.cluster import Cluster

RETRY_S = 5.0
"""How soon an instance of which something could not be found out is tried again."""
RECHECK_S = 600.0
"""How soon an instance is tried again though all was found out: somebody may have mounted another
directory over one that was shared."""


class StorageDiscovery:
    """Keeps ``storage`` true. It does nothing before :meth:`start`, nor for a single instance."""

    def __init__(self, cluster: Cluster, storage: SharedStorage) -> None:
        self._cluster = cluster
        self._storage = storage
        self._started = False
        self._one_at_a_time = asyncio.Lock()
        self._tasks: dict[Instance, asyncio.Task[None]] = {}
        self._tried: dict[Instance, tuple[float, int]] = {}
        """When each is due again (monotonic seconds), and how often it was doubted until then."""

    def start(self) -> None:
        """From now on find out what :meth:`heard` gives reason to."""
        self._started = len(self._cluster.instances) > 1

    async def close(self) -> None:
        """End what is being found out."""
        self._started = False
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def heard(self, instance: Instance) -> None:
        """For ``health_checker.on_success``: find out what ``instance`` shares, if it is due.

        It is due if it was never tried, was doubted since, or its time has come.
        """
        if not self._started or not self._storage.is_discovered or instance in self._tasks:
            return
        due, doubts = self._tried.get(instance, (0.0, -1))
        is_news = doubts != self._storage.doubts[instance]
        if is_news or self._cluster.clock.monotonic() >= due:
            task = asyncio.create_task(
                self._find_out(instance), name=f"storage of {instance.host}", context=untraced()
            )
            self._tasks[instance] = task
            task.add_done_callback(lambda _done: self._tasks.pop(instance, None))

    async def _find_out(self, instance: Instance) -> None:
        storage = self._storage
        async with self._one_at_a_time:
            before = storage.shown()
            seen = -1
            while seen != storage.interruptions.total():  # else somebody was away meanwhile
                seen = storage.interruptions.total()
                # One after the other: of an instance that is dying only the first is a strike.
                known = [await self._place(instance, kind) for kind in storage.kinds]
            wait_s = RECHECK_S if all(known) else RETRY_S
            due = self._cluster.clock.monotonic() + wait_s
            self._tried[instance] = due, storage.doubts[instance]
            if (after := storage.shown()) != before:
                logger.info("directories that all instances share: {}", after)
                if "output" in after and "output" not in before:
                    logger.warning(
                        "output is shared: ComfyUI may give one name to two results that are saved"
                        " under one prefix at the same moment, and only one of them remains"
                    )

    async def _place(self, instance: Instance, name: str) -> bool:
        """Put it into the group it belongs to; False if that cannot be said now."""
        groups = self._storage.kinds[name].groups
        own = groups.get(instance)
        if own is not None and len(own.members) == 1:
            return True
        if own is not None:
            shares = await self._belongs(instance, own, name)
            if shares is not False:
                return shares is True
            logger.warning("{} does not share its {} directory any more", instance.host, name)
        for group in dict.fromkeys(groups.values()):
            shares = group is not own and await self._belongs(instance, group, name)
            if shares is None:
                return False
            if shares:
                self._storage.enter(instance, group, name)
                return True
        self._storage.enter(instance, Group(), name)
        return True

    async def _belongs(self, instance: Instance, group: Group, kind: str) -> bool | None:
        """Whether it has the directory of ``group``; None if that cannot be said now."""
        others = [one for one in group.members if not one.failing and one is not instance]
        if not others or instance.failing:
            return None
        other = min(others, key=lambda one: one.id)
        interruptions = self._storage.interruptions
        before = interruptions[instance], interruptions[other]
        shares = await have_one_directory(other, instance, kind, self._cluster)
        if before != (interruptions[instance], interruptions[other]):
            return None
        return shares
