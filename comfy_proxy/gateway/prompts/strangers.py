"""What others put on an instance directly, past this proxy: it pushes models out of its memory.

ComfyUI tells of such prompts only how many there are. So where there are some, and loading is known
to cost anything, the one that runs is looked at in ``/queue`` whenever the length has changed.
"""

from __future__ import annotations

from loguru import logger

from comfy_proxy.clock import sleep
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.instance_tasks import InstanceTasks
from comfy_proxy.cluster.prompt_lists import QUEUE, QueueEntry, read_queue
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.exchange.pieces import read
from comfy_proxy.gateway.exchange.scanned import ask_scanned
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.lenient_json import loads_exact

PAUSE_S = 1.0
"""Seconds between two looks at one instance; what comes meanwhile is seen by the next look. A queue
is large where many wait."""


class Strangers:
    """Tells the planner which models strangers' prompts use."""

    def __init__(self, cluster: Cluster, ledger: Ledger) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._lookers = InstanceTasks(cluster.instances, self._look, "strangers at")

    def load_changed(self, instance: Instance) -> None:
        """A ``status`` frame of ``instance`` has come."""
        if self._are_at(instance) and self._cluster.planner.costs.loads_known:
            self._lookers.wake(instance)

    async def close(self) -> None:
        """Look no more."""
        await self._lookers.close()

    def _are_at(self, instance: Instance) -> bool:
        clients = sum(one.job is None for one in self._ledger.at(instance))
        return instance.prompts.external_jobs > clients

    async def _look(self, instance: Instance) -> None:
        try:
            await self._look_at_running(instance)
        except InstanceError as error:
            logger.debug("{} does not say what runs there: {}", instance.host, error.message)
        await sleep(self._cluster.clock, PAUSE_S)

    async def _look_at_running(self, instance: Instance) -> None:
        answer = await ask_scanned(instance, self._cluster, "/queue", QUEUE)
        if (queue := read_queue(answer.root)) is None:
            return
        for entry in queue.running:
            if not self._is_own(entry, instance):
                graph = _graph(loads_exact(await read([answer.part(entry.value)])))
                work = self._cluster.graph_support.work(graph)
                if work is not None:
                    self._cluster.planner.lines[instance].loaded.began(work.models)

    def _is_own(self, entry: QueueEntry, instance: Instance) -> bool:
        prompt_id = entry.prompt_id
        return prompt_id is not None and self._ledger.find_at(prompt_id, instance) is not None


def _graph(entry: object) -> dict[str, object]:
    """``[number, id, graph, extra_data, outputs]``; nothing for an entry of another shape."""
    match entry:
        case [_, _, dict() as graph, *_]:
            return graph
    return {}
