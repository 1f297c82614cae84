"""Which jobs' prompts had better wait elsewhere, and where."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from comfy_proxy.cluster.instance import Instance, runs_empty, takes_work
from comfy_proxy.cluster.late_runs import Movable
from comfy_proxy.cluster.load_balancer import LoadBalancer
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.planning.planner import Planner
from comfy_proxy.cluster.planning.takers import Takers


def _placements(instance: Instance) -> list[Placement]:
    """Its placements with all that they can do: an instance knows only how to count them."""
    return [one for one in instance.placements if isinstance(one, Placement)]


def _load_after_moves(instance: Instance) -> int:
    """Prompts that are offered a place elsewhere count there already, not here too."""
    return instance.load - sum(p.move_to is not None for p in _placements(instance))


def movable(busy: Instance) -> Iterator[Movable]:
    """The jobs' prompts that wait there and may be offered a place, the last one first."""
    for prompt in reversed(_placements(busy)):
        if prompt.movable and not prompt.of_client:
            yield Movable(prompt.key, partial(_may_be_offered, prompt))


def _may_be_offered(prompt: Placement, idle: Instance) -> bool:
    return idle.available and not idle.failing and prompt.accepts(idle)


def gaining(
    load_balancer: LoadBalancer, planner: Planner
) -> tuple[Placement, Instance, Instance] | None:
    """The prompt that had better go elsewhere, from where, and where to."""
    loads = {one: _load_after_moves(one) for one in load_balancer.instances}
    by_load = sorted(loads, key=loads.__getitem__)
    targets = {one: loads[one] for one in by_load if one.available and not one.failing}
    takers = Takers(planner, targets)
    for busy in reversed(by_load):
        limit = loads[busy] - 2
        lower = [one for one, load in targets.items() if load <= limit]
        if not lower:
            return None
        for prompt in reversed([p for p in _placements(busy) if p.movable]):
            waiting = takers.waiting(prompt.key, busy)
            if not takers.any_for(waiting, limit):
                continue
            for idle in lower:
                if prompt.accepts(idle) and takers.gains(waiting, idle):
                    return prompt, busy, idle
    return None


def leaving(load_balancer: LoadBalancer) -> Iterator[tuple[Placement, Instance, Instance]]:
    """Each prompt that waits where nothing is to wait, from where, and where to.

    Also beyond the capacity there: those at the door would take each place that is given back, and
    it would run where it is.
    """
    for busy in filter(runs_empty, load_balancer.instances):
        for prompt in [one for one in _placements(busy) if one.movable and one.move]:
            takers = [one for one in load_balancer.instances if takes_work(one)]
            takers = [one for one in takers if not one.failing and prompt.accepts(one)]
            if takers:
                yield prompt, busy, min(takers, key=load_balancer.rank)
