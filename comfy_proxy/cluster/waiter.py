"""One that waits for a place at an instance."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from comfy_proxy.cluster.instance import Instance, takes_work
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.planning.work import Work

Accepts = Callable[[Instance], bool]
WorkAt = Callable[[Instance], Work | None]
"""What would run there; None while that is not known."""


def anywhere(instance: Instance) -> bool:
    return True


def unknown_work(instance: Instance) -> Work | None:
    return None


@dataclass(kw_only=True, slots=True, eq=False)
class Waiter:
    """``rank`` is when it came, in monotonic seconds, and ``turn`` that of its client
    (``fair_share.py``): the lowest turn is served first, and of equal ones who came first.

    ``overtaken_s`` is what those run that came later and got a place before it, to which it would
    have gone next.

    ``accepts`` says where it can run, ``avoid`` where only if it must. ``passed_over`` did not
    answer the check just now. ``placement`` is the place that it was given, until it takes it;
    ``openings`` counts how often the door had opened by then. ``tried`` is the place that it took
    last, while the check there is under way. ``woken`` is set when it has to look again.
    """

    rank: float
    turn: float = 0.0
    overtaken_s: float = 0.0
    accepts: Accepts = anywhere
    avoid: Collection[Instance] = ()
    work_at: WorkAt = unknown_work
    passed_over: set[Instance] = field(default_factory=set)
    placement: Placement | None = None
    openings: int = 0
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    tried: Placement | None = None

    @property
    def order(self) -> tuple[float, float]:
        """The lowest is served first."""
        return self.turn, self.rank

    @property
    def seat(self) -> Placement | None:
        """The place that it has until it waits again; None while it waits."""
        return self.placement or self.tried

    def may_move_to(self, instance: Instance) -> bool:
        """Whether it can be moved there once it has a place elsewhere."""
        return self.accepts(instance) and instance not in self.avoid

    def may_use(self, instance: Instance) -> bool:
        """Whether it may go there, be it full, and only if it must."""
        return takes_work(instance) and instance not in self.passed_over and self.accepts(instance)

    def may_hope(self, instances: Iterable[Instance]) -> bool:
        """Whether any of them is :meth:`usable`; there may be many that wait, so this is quick."""
        return any(map(self.may_use, instances))

    def usable(self, instances: Iterable[Instance]) -> list[Instance]:
        """The healthy ones of ``instances`` that it may go to, be they full."""
        found = [one for one in instances if self.may_use(one)]
        return [one for one in found if one not in self.avoid] or found
