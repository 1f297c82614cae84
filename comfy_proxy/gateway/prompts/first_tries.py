"""What is done at an instance where a client's prompt ran out of memory, before it runs once more.

Its entry goes from the history there, and the memory is freed. ComfyUI tells of the error before it
writes the entry: until then the prompt is in its queue, as the one that runs.
"""

from __future__ import annotations

from collections.abc import Iterable

from loguru import logger

from comfy_proxy.clock import sleep
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.exchange.fanout import ask
from comfy_proxy.gateway.exchange.scanned import ask_queue
from comfy_proxy.ledger.prompt import Attempt, Prompt
from comfy_proxy.ledger.states import State

MAX_LOOKS = 60
"""How often an instance is asked whether it is done with a prompt that ran out of memory there;
after these fifty seconds it is taken to be."""
MAX_CLEARED = 1_000
"""So many first tries are remembered as cleared away; the oldest would be cleared once more."""
_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 1.0


class FirstTries:
    """Ends them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._cleared: dict[Attempt, None] = {}

    async def clear_away(self, prompt: Prompt) -> None:
        """Nothing is left of ``prompt`` where it ran out of memory; of an instance that does not
        answer there is nothing to be had, and nobody is shown anything of it either. Done once, be
        it that the prompt has nowhere to go for long: its memory is others' by then."""
        if prompt.attempts[-1] in self._cleared:
            return
        self._cleared[prompt.attempts[-1]] = None
        if len(self._cleared) > MAX_CLEARED:
            del self._cleared[next(iter(self._cleared))]
        instance = prompt.attempts[-1].instance
        try:
            await self._wait_for_end(prompt, instance)
            await ask(
                instance, self._cluster, "POST", "/history", json={"delete": [prompt.prompt_id]}
            )
        except InstanceError as error:
            logger.info("the first try stays in {}: {}", instance.host, error.message)
        await self._cluster.gpu_memory.free(instance)

    def in_order(self, prompt: Prompt, instances: Iterable[Instance]) -> list[Instance]:
        """``instances``, which are in the order in which it may go there otherwise: first where
        there is more memory if that is somewhere, else where memory was freed for it."""
        failed = next((one.instance for one in prompt.attempts if one.out_of_memory), None)
        if failed is None:
            return list(instances)
        avoided = self._cluster.gpu_memory.too_small(failed, lambda instance: True)
        return sorted(instances, key=lambda one: (one in avoided, one is not failed))

    async def _wait_for_end(self, prompt: Prompt, instance: Instance) -> None:
        pause_s = _FIRST_PAUSE_S
        for _ in range(MAX_LOOKS):
            queue = await ask_queue(instance, self._cluster)
            if queue is None or prompt.prompt_id not in queue.view():
                return
            await sleep(self._cluster.clock, pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            if prompt.state is not State.MOVING:
                return
