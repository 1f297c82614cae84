"""Which instances may take over what waits elsewhere, without a look at every pair of instances.

What a prompt would cost at an instance depends on the sort of its work, and not on where it waits.
So it is worked out once for each sort and instance, and each prompt is held against the least of
that; only pairs for which that leaves a hope are decided by :meth:`Planner.gains`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from math import inf
from typing import Final, NamedTuple

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.planning.figures import Figure, tie_s
from comfy_proxy.cluster.planning.planner import SLOWER_SHARE, Planner
from comfy_proxy.cluster.planning.slot import Slot


class Waiting(NamedTuple):
    """A prompt that waits at ``busy``: it gains where it would cost less than ``cost_s``, or needs
    no load and runs no longer than ``run_s``. ``sort`` is None for one of which nothing is known:
    that gains wherever less is to do."""

    key: Hashable
    busy: Instance
    sort: _Sort | None
    cost_s: float = inf
    run_s: float = inf


class Takers:
    """``loads``: those that may take something over, with their loads, the least loaded first. To
    be made anew for each evaluation: it holds until anything changes."""

    def __init__(self, planner: Planner, loads: Mapping[Instance, int]) -> None:
        self._planner = planner
        self._loads = loads
        self._sorts: dict[Hashable, _Sort] = {}

    def waiting(self, key: Hashable, busy: Instance) -> Waiting:
        """The prompt that waits at ``busy`` under ``key``."""
        planner = self._planner
        slot, end_in_s = planner.lines[busy].find(key), planner.end_in_s(key, busy)
        if slot is None or end_in_s is None:
            return Waiting(key, busy, None)
        run_s = planner.run_s(slot.work, busy)
        return Waiting(
            key,
            busy,
            self._sort(slot),
            cost_s=end_in_s - tie_s(slot.run_s) + _ROUNDING_S,
            run_s=run_s * (1 + SLOWER_SHARE) if run_s else inf,
        )

    def any_for(self, waiting: Waiting, limit: int) -> bool:
        """False if it certainly gains at none of those whose load is ``limit`` at most."""
        if waiting.sort is None:
            return any(load <= limit for load in self._loads.values())
        cost_s, run_s = waiting.sort.least(limit)
        return cost_s < waiting.cost_s or run_s <= waiting.run_s

    def gains(self, waiting: Waiting, idle: Instance) -> bool:
        """Whether it had better go to ``idle``, as :meth:`Planner.gains` has it."""
        if waiting.sort is not None and not waiting.sort.may_gain(waiting, idle):
            return False
        return self._planner.gains(waiting.key, waiting.busy, idle)

    def cheapest(self, slot: Slot, limit: int) -> Sequence[Figure]:
        """What the prompt of ``slot`` would cost where the load is ``limit`` at most, as far as
        that is known; the cheapest first."""
        return self._sort(slot).cheapest(limit)

    def _sort(self, slot: Slot) -> _Sort:
        key = slot.work.fingerprint, slot.fixed
        sort = self._sorts.get(key)
        if sort is None:
            figures = self._planner.figures(slot, self._loads)
            if not figures:  # of one at least nothing is known
                figures = [f for one in self._loads for f in self._planner.figures(slot, [one])]
            sort = self._sorts[key] = _Sort(self._loads, figures)
        return sort


class _Sort:
    """What a sort of work would cost at each of those that may take it over."""

    def __init__(self, loads: Mapping[Instance, int], figures: Sequence[Figure]) -> None:
        self._loads = loads
        self._seconds = {one.instance: _seconds_of(one) for one in figures}
        self._least: dict[int, tuple[float, float]] = {}
        self._figures = figures
        self._cheapest: dict[int, list[Figure]] = {}
        self._highest = max(loads.values(), default=0)

    def may_gain(self, waiting: Waiting, idle: Instance) -> bool:
        cost_s, run_s = self._seconds.get(idle, _UNKNOWN)
        return cost_s < waiting.cost_s or run_s <= waiting.run_s

    def least(self, limit: int) -> tuple[float, float]:
        """What it costs at least where the load is ``limit`` at most, and what it runs there at
        least where it needs no load."""
        limit = min(limit, self._highest)
        known = self._least.get(limit)
        if known is None:
            seconds = self._seconds
            found = [
                seconds.get(one, _UNKNOWN) for one, load in self._loads.items() if load <= limit
            ]
            costs_s, runs_s = zip(*found, (inf, inf), strict=True)
            known = self._least[limit] = min(costs_s), min(runs_s)
        return known

    def cheapest(self, limit: int) -> list[Figure]:
        """What it costs where the load is ``limit`` at most, the least first."""
        limit = min(limit, self._highest)
        known = self._cheapest.get(limit)
        if known is None:
            there = [one for one in self._figures if self._loads[one.instance] <= limit]
            known = self._cheapest[limit] = sorted(there, key=lambda one: one.cost_s)
        return known


def _seconds_of(figure: Figure) -> tuple[float, float]:
    """What it costs, and what it runs if it needs no load; infinite otherwise."""
    option, harm_s = figure.option, figure.harm_s
    return figure.cost_s, inf if option.load_s or harm_s else option.run_s


_ROUNDING_S: Final = 1e-6
"""No pair is left out because its seconds were added up in another order."""
_UNKNOWN: Final = (-inf, -inf)
"""Of an instance of which there is no figure: there everything gains."""
