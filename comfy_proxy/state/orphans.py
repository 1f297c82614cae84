"""Prompts that jobs of an earlier process left at the instances: nobody waits for them any more.

Those that wait are deleted, and the one that runs is interrupted unless its job goes on
(``job_state.py``). Each instance is asked once, as soon as it answers.
"""

from __future__ import annotations

from collections.abc import Container
from weakref import WeakSet

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.exchange.scanned import ask_queue
from comfy_proxy.state.identity import Identity


class Orphans:
    """Withdraws the prompts that ``identity`` knows as ours; those in ``spared`` only while they
    wait."""

    def __init__(self, cluster: Cluster, identity: Identity, spared: Container[str]) -> None:
        self._cluster = cluster
        self._identity = identity
        self._spared = spared
        self._unasked: WeakSet[Instance] = WeakSet()
        cluster.instances.each(self._unasked.add)

    def start(self) -> None:
        """Ask each instance that has passed a check, the others when they do."""
        self._cluster.health_checker.on_success.append(self._answered)
        for instance in self._cluster.instances:
            if instance.last_success is not None:
                self._answered(instance)

    def _answered(self, instance: Instance) -> None:
        if instance in self._unasked:
            self._unasked.discard(instance)
            self._cluster.spawn(self._withdraw(instance))

    async def _withdraw(self, instance: Instance) -> None:
        client = self._cluster.clients[instance]
        try:
            if (queue := await ask_queue(instance, self._cluster)) is None:
                return
            for entry in (*queue.pending, *queue.running):  # else the next one would begin
                if entry.prompt_id is None or not self._identity.is_orphan(entry.client_id):
                    continue
                if await client.delete(entry.prompt_id):
                    _log(instance, entry.prompt_id, "withdrawn")
                    continue
                if entry.prompt_id in self._spared:
                    continue
                if entry.prompt_id in (await client.queue()).running:
                    await client.interrupt(entry.prompt_id)
                    _log(instance, entry.prompt_id, "interrupted")
        except InstanceError as error:
            logger.debug("{}: what is left there stays: {}", instance.host, error.message)
            self._unasked.add(instance)


def _log(instance: Instance, prompt_id: str, done: str) -> None:
    logger.bind(instance=instance.host, prompt_id=prompt_id).info(
        "{}: the prompt {} of an earlier process is {}", instance.host, prompt_id, done
    )
