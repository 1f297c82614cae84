"""Which clients' prompts had better wait elsewhere: found out anew whenever a load changes.

There may be hundreds of instances, so nothing here looks at every pair of them
(``cluster/planning/takers.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance, runs_empty, takes_work
from comfy_proxy.cluster.late_runs import MIN_LOAD, Movable
from comfy_proxy.cluster.planning.takers import Takers, Waiting
from comfy_proxy.cluster.planning.tied import is_tied
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.ledger.states import State

MAX_HEIRS: Final = 16
"""So many instances at most are asked to take over what waits at one that is to run empty. Beyond
them it stays there, and runs there: of hundreds each may lack what it needs, and each is asked."""


class Uneven:
    """Finds who gives and who takes."""

    def __init__(self, cluster: Cluster, ledger: Ledger) -> None:
        self._cluster = cluster
        self._ledger = ledger

    def pairs(self) -> Iterator[tuple[Instance, Instance]]:
        """Who gives and who takes: one is to run empty, or one runs low (one prefetched prompt is
        kept) while two wait."""
        yield from self._leaving()
        if all(one.load < MIN_LOAD for one in self._cluster.instances):
            return  # nothing waits anywhere, as most of the time
        healthy = [one for one in self._cluster.instances if one.healthy]
        loads = dict(sorted(((one, one.load) for one in healthy), key=lambda pair: pair[1]))
        low = {one: load for one, load in loads.items() if load <= 1 and takes_work(one)}
        takers = Takers(self._cluster.planner, low)
        givers = {
            busy: waiting
            for busy in reversed(loads)
            if low and (waiting := self._may_give(busy, takers, loads[busy] - 2))
        }
        for idle in low:
            for busy, waiting in givers.items():
                if loads[busy] - low[idle] >= 2 and any(takers.gains(one, idle) for one in waiting):
                    yield busy, idle

    def gains(self, prompt: Prompt, busy: Instance, idle: Instance) -> bool:
        """It may be moved, and would be finished earlier, the load that this causes included; or
        ``busy`` is to run empty."""
        if not self._may_leave(prompt, busy):
            return False
        return runs_empty(busy) or self._cluster.planner.gains(prompt, busy, idle)

    def movable(self, busy: Instance) -> list[Movable]:
        """What may leave ``busy``; of equal ones the last, which gains most by it."""
        return [Movable(one) for one in self._last_of_each_kind(busy)]

    def _leaving(self) -> Iterator[tuple[Instance, Instance]]:
        """From each that is to run empty to the MAX_HEIRS with the least to do, busy as they
        are."""
        for busy in (one for one in self._cluster.instances if one.healthy and runs_empty(one)):
            if self._last_of_each_kind(busy):
                takers = sorted(
                    filter(takes_work, self._cluster.instances), key=lambda one: one.load
                )
                for heir in takers[:MAX_HEIRS]:
                    yield busy, heir

    def _may_give(self, busy: Instance, takers: Takers, limit: int) -> list[Waiting]:
        """What waits at ``busy`` and may gain at one of ``takers`` with that load at most."""
        if limit < 0:
            return []
        waiting = (takers.waiting(one, busy) for one in self._last_of_each_kind(busy))
        return [one for one in waiting if takers.any_for(one, limit)]

    def _last_of_each_kind(self, busy: Instance) -> list[Prompt]:
        """Those at ``busy`` that may be moved; of equal ones the last gains most by it."""
        last: dict[str | None, Prompt] = {}
        for one in reversed(self._ledger.at(busy)):
            kind = None if one.work is None else one.work.fingerprint
            if kind not in last and self._may_leave(one, busy):
                last[kind] = one
        return list(last.values())

    def _may_leave(self, prompt: Prompt, busy: Instance) -> bool:
        return is_movable(prompt) and not is_tied(self._cluster.planner.lines[busy], prompt)


def is_movable(prompt: Prompt) -> bool:
    """A client's prompt that waits, as far as is known, with nothing against a move."""
    if prompt.post is None or prompt.state is not State.QUEUED or prompt.deleted:
        return False
    return not prompt.attempts[-1].stays and prompt.attempts[-1].end is None
