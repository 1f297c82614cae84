"""What an instance had in its queue when its process ended is submitted elsewhere.

ComfyUI keeps its queue in memory: a process that ends takes along what waited and what ran there
(trap 5). A prompt is submitted again only if that is proven: nobody listens at the address any
more, or a ComfyUI answers there that knows no prompt at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from loguru import logger

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.submit_once import refused
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.fanout import ask
from comfy_proxy.gateway.files.staging import stage_inputs
from comfy_proxy.gateway.native import load
from comfy_proxy.gateway.prompts.carrier import Carrier
from comfy_proxy.gateway.prompts.moving import MovingPrompt
from comfy_proxy.gateway.prompts.posting import ForwardedPrompt
from comfy_proxy.gateway.views.queue_and_history import is_queue

if TYPE_CHECKING:
    from comfy_proxy.gateway.gateway import Gateway

ASK_TIMEOUT_S = 5.0


async def queue_was_lost(instance: Instance, gateway: Gateway) -> bool | None:
    """Whether its process has ended since it took prompts; None if that cannot be said now."""
    cluster = gateway.cluster
    try:
        queue = load(await ask(instance, cluster, "GET", "/queue", timeout_s=ASK_TIMEOUT_S))
        path = "/history?max_items=1"
        history = load(await ask(instance, cluster, "GET", path, timeout_s=ASK_TIMEOUT_S))
    except InstanceError as error:
        return True if refused(error) else None
    empty = is_queue(queue) and not (queue["queue_running"] or queue["queue_pending"])
    return empty and history == {}


class Rescuer:
    """Submits prompts again that were lost with their instance."""

    def __init__(self, gateway: Gateway, carrier: Carrier) -> None:
        self._gateway = gateway
        self._carrier = carrier

    async def rescue(self, prompt: ForwardedPrompt, moving: MovingPrompt) -> Instance | None:
        """Where it is now; None if no instance can take it at the moment."""
        for target in await self._targets(prompt):
            placement = self._gateway.cluster.scheduler.enter(target)
            try:
                if await self._is_ready(prompt, target):
                    return await self._carrier.arrive(prompt, moving, [target], placement)
            except InstanceError as error:
                logger.info("{} cannot take over a prompt: {}", target.host, error.message)
            finally:
                placement.release()
        return None

    async def _targets(self, prompt: ForwardedPrompt) -> Sequence[Instance]:
        """Those that answer and can run it, the least loaded first."""
        gateway, check = self._gateway, self._gateway.cluster.health_checker.check
        by_load = sorted(gateway.cluster.instances, key=lambda instance: instance.load)
        alive = [one for one in by_load if one.healthy and await check(one)]
        return [one for one in alive if await gateway.lacks(prompt.graph, one) == 0]

    async def _is_ready(self, prompt: ForwardedPrompt, target: Instance) -> bool:
        """Its input files and its client's socket are there. Raises InstanceError."""
        gateway = self._gateway
        node_info = gateway.node_info(target)
        if not await stage_inputs(prompt.graph, target, gateway, node_info):
            return False
        return prompt.client_id is None or await gateway.events.ready(
            prompt.client_id, target, gateway
        )
