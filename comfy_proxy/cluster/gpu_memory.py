"""How much memory the instances have, what is done when one runs out of it, and what is then known.

ComfyUI unloads every model itself when a prompt runs out of memory, but keeps the results of nodes,
and what custom nodes hold. ``POST /free`` has it let go of those too. It does so once the prompt
that runs at that moment has ended: nobody's prompt is disturbed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from loguru import logger

from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.planning.planner import Planner
from comfy_proxy.errors import GpuMemoryError, InstanceError


class GpuMemory:
    """Of all instances."""

    def __init__(self, clients: Mapping[Instance, ComfyUIClient], planner: Planner) -> None:
        self._clients = clients
        self._planner = planner

    def __repr__(self) -> str:
        return f"<GpuMemory {[one.vram_total for one in self._clients]}>"

    def heard(self, instance: Instance) -> None:
        """For ``health_checker.on_success``: the check has told how much it has in all."""
        line = self._planner.lines[instance]
        total = instance.vram_total if instance.keeps_several else None
        if line.loaded.memory.total != total:
            line.loaded.memory.total = total
            line.loaded.memory.sets = None  # what it was seen to keep was with other options
            line.changed()

    async def free(self, instance: Instance) -> None:
        """Have ``instance`` free its memory. One that does not do it has unloaded its models at
        least: what is to run once more does so all the same."""
        try:
            await self._clients[instance].free()
        except InstanceError as error:
            logger.warning("{} does not free its memory: {}", instance.host, error.message)
        self._planner.forget_loaded(instance)

    def too_small(
        self, instance: Instance, accepts: Callable[[Instance], bool]
    ) -> frozenset[Instance]:
        """Where not to go with what ran out of memory at ``instance``: wherever there is no more of
        it than there. Nowhere if no healthy one that ``accepts`` it has more, or nobody knows."""
        total = instance.vram_total
        if total is None:
            return frozenset()
        larger = {one for one in self._clients if (one.vram_total or 0) > total}
        if not any(one.healthy and accepts(one) for one in larger):
            return frozenset()
        return frozenset(one for one in self._clients if one not in larger)


def once_more(error: GpuMemoryError) -> GpuMemoryError:
    """``error`` as it is told of a prompt that had its second try."""
    again = GpuMemoryError(
        f"{error.message} It was the second try, after memory had been freed.",
        details=error.details,
    )
    again.node_traceback = error.node_traceback
    return again
