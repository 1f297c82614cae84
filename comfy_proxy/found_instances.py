"""At the start of ``comfy-proxy serve``: which instances there are, and what each can run."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web
from loguru import logger

from comfy_proxy.check import what_lacks
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.instance_tasks import InstanceTasks
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.errors import InstanceError
from comfy_proxy.jobs.service import JobService
from comfy_proxy.keys import CLUSTER, JOBS, LOGS


class FoundInstances:
    """Logs one line for each instance when it has answered for the first time, and one for each
    that does not answer when the proxy starts or it joins."""

    def __init__(self, cluster: Cluster, jobs: JobService) -> None:
        self._cluster = cluster
        self._jobs = jobs
        self._told = ByInstance[str]()
        self._tasks = InstanceTasks(cluster.instances, self._look, "find")

    def start(self) -> None:
        """Look at each instance, at those that join too, and again when one answers a check."""
        self._cluster.health_checker.on_success.append(self._answered)
        self._cluster.instances.each(self._tasks.begin)

    async def close(self) -> None:
        """End the looks that are under way."""
        await self._tasks.close()

    def _answered(self, instance: Instance) -> None:
        if self._told.get(instance) != "found":
            self._tasks.begin(instance)

    async def _look(self, instance: Instance) -> None:
        try:
            # Shares the check that is under way, and asks for nothing that is known.
            answers = instance.healthy and await self._cluster.health_checker.check(instance)
            lacks = (
                what_lacks(self._jobs.workflows, await self._cluster.capabilities.get(instance))
                if answers
                else None
            )
        except InstanceError:
            lacks = None
        if lacks is None:
            if self._told.get(instance) is None:
                self._told[instance] = "missing"
                logger.warning("{} does not answer yet", instance.host)
            return
        self._told[instance] = "found"
        logger.info("{} answers; {}", instance.host, _in_words(lacks))


async def tell_instances(app: web.Application) -> AsyncIterator[None]:
    """For ``app.cleanup_ctx``, after the application's own."""
    found = FoundInstances(app[CLUSTER], app[JOBS])
    with app[LOGS].current():
        found.start()
    yield
    await found.close()


def _in_words(lacks: dict[str, str]) -> str:
    runs = [name for name, lack in lacks.items() if not lack]
    told = [f"it runs {', '.join(runs)}" if runs else "it can run no workflow of the job API"]
    lacking = [name for name, lack in lacks.items() if lack]
    told += [f"not {', '.join(lacking)} (comfy-proxy check says why)"] if lacking else []
    return "; ".join(told)
