"""What an instance had in its queue when its process ended is submitted elsewhere.

ComfyUI keeps its queue in memory: a process that ends takes along what waited and what ran there.
A prompt is submitted again only if that is proven: nobody listens at the address any more, or a
ComfyUI answers there that has the prompt neither in its queue nor in its history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from loguru import logger

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_lists import history_path
from comfy_proxy.cluster.translation import nobody_listens
from comfy_proxy.errors import InstanceError, InstanceUnreachableError
from comfy_proxy.gateway.exchange.scanned import ask_history, ask_queue
from comfy_proxy.gateway.files.staging import stage_inputs
from comfy_proxy.gateway.prompts.carrier import Carrier
from comfy_proxy.gateway.prompts.moving import MovingPrompt
from comfy_proxy.gateway.prompts.posting import ForwardedPrompt

if TYPE_CHECKING:
    from comfy_proxy.gateway.gateway import Gateway

ASK_TIMEOUT_S = 5.0


async def lost_prompts(
    prompts: Sequence[ForwardedPrompt], instance: Instance, gateway: Gateway
) -> Sequence[ForwardedPrompt] | None:
    """Which of ``prompts``, all accepted by ``instance``, were lost with its process; None if it
    cannot be asked now.

    All of them if nobody listens at its address or a process that was started again knows nothing
    at all. Else each is looked for by its id, since others may have been submitted there since: in
    the queue first, because ComfyUI moves a prompt from there to its history without a gap. What
    is in neither though there was no trouble with the instance was deleted by somebody there.
    """
    prompts = [prompt for prompt in prompts if instance.troubled_since(prompt.sent_at)]
    try:
        queue = await ask_queue(instance, gateway.cluster, timeout_s=ASK_TIMEOUT_S)
        if queue is None:
            return None
        if queue.empty and await _history("/history?max_items=1", instance, gateway) == {}:
            return prompts
        view = queue.view()
        absent = [prompt for prompt in prompts if prompt.prompt_id not in view]
        return [prompt for prompt in absent if not await _has_ended(prompt, instance, gateway)]
    except InstanceError as error:
        return prompts if nobody_listens(error) else None


async def _has_ended(prompt: ForwardedPrompt, instance: Instance, gateway: Gateway) -> bool:
    history = await _history(history_path(prompt.prompt_id), instance, gateway)
    if history is None:  # an error, a login page: that proves nothing
        raise InstanceUnreachableError(f"{instance.host} has no usable history.")
    return prompt.prompt_id in history


async def _history(path: str, instance: Instance, gateway: Gateway) -> Mapping[str, Any] | None:
    return await ask_history(instance, gateway.cluster, path, timeout_s=ASK_TIMEOUT_S)


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
