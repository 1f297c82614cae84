"""Who of those that wait for a place is to go where, in which order, and when it will be done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.planning.figures import Figure, equals
from comfy_proxy.cluster.planning.joining import beyond
from comfy_proxy.cluster.planning.line import Line
from comfy_proxy.cluster.planning.planner import Planner
from comfy_proxy.cluster.planning.slot import Option, Standing
from comfy_proxy.cluster.planning.work import Work
from comfy_proxy.cluster.waiter import Waiter

LOOKAHEAD: Final = 32
MIN_LOOKAHEAD: Final = 8
MAX_FIGURES: Final = 640
"""So many of those that wait, the first ones, are planned together, fewer at many instances; the
others follow in the order in which they came. Planning 32 at two instances takes about 2 ms."""

Rank = Callable[[Instance], tuple[int, ...]]
"""Orders instances that are equal otherwise, the lowest first."""


class DoorPlan:
    """Valid at the moment it is made. ``waiting`` are in the order in which they came.

    ``lookahead`` is how many of them it reaches; it ends earlier as soon as ``is_enough`` says so.
    ``figures`` are of those of whose work something is known; the others have none. ``candidates``
    are the figures of all instances among which each was chosen.
    """

    def __init__(
        self,
        planner: Planner,
        instances: Sequence[Instance],
        waiting: Sequence[Waiter],
        rank: Rank,
        is_enough: Callable[[DoorPlan], bool] = lambda plan: False,
    ) -> None:
        self._planner = planner
        self._instances = instances
        self._rank = rank
        self._lines: dict[Instance, Line] = {}
        self._kept: dict[tuple[Instance, str], tuple[int, Option, float]] = {}
        self._known: dict[str, dict[Instance, Figure]] = {}  # by fingerprint, before this plan
        self.figures: dict[Waiter, Figure] = {}
        self.candidates: dict[Waiter, list[Figure]] = {}
        self._count = 0
        self.lookahead = max(MIN_LOOKAHEAD, min(LOOKAHEAD, MAX_FIGURES // len(instances)))
        for waiter in waiting:
            if not self.add(waiter) or is_enough(self):
                break

    def order(self) -> list[tuple[Instance, list[Waiter]]]:
        """For each instance who is to get places there, in this order."""
        return [
            (instance, [slot.key for slot in line.waiting if isinstance(slot.key, Waiter)])
            for instance, line in self._lines.items()
        ]

    def fills(self, instance: Instance, places: int) -> bool:
        """Whether so many go there and have their models loaded by then: whoever comes later goes
        behind them, or could as well."""
        line = self._lines.get(instance)
        first = [] if line is None else line.waiting[:places]
        return len(first) == places and all(one.work.models and not one.load_s for one in first)

    def end_in_s(self, waiter: Waiter) -> float | None:
        """Seconds until it has ended, those counted that overtake it in this plan; None if it is
        not in it."""
        figure = self.figures.get(waiter)
        if figure is None:
            return None
        line = self._line(figure.instance)
        return line.offset_s + (line.end_s(waiter) or 0.0)

    def free_in_s(self, instance: Instance) -> float:
        """Seconds until all that waits there and all that this plan sends there has ended."""
        line = self._line(instance)
        return line.offset_s + line.after()[1]

    def knows(self, waiter: Waiter) -> bool:
        """Something is known of its work: it goes where the plan sends it, once that reaches it."""
        if waiter in self.figures:
            return True
        instance = next((one for one in self._instances if waiter.may_use(one)), None)
        work = None if instance is None else waiter.work_at(instance)
        if instance is None or work is None:
            return False
        return self._planner.run_s(work, instance) is not None

    def add(self, waiter: Waiter) -> bool:
        """One more that came last; False if the plan does not reach so far."""
        if self._count == self.lookahead:
            return False
        self._add(waiter)
        self._count += 1
        return True

    def _add(self, waiter: Waiter) -> None:
        figures = []
        for instance in waiter.usable(self._instances):
            work = waiter.work_at(instance)
            figure = None if work is None else self._figure(waiter, work, instance)
            if figure is not None:
                figures.append(figure)
        if not figures:
            return
        tied = equals(figures)
        best = tied[0] if len(tied) == 1 else min(tied, key=self._order_of)
        self.figures[waiter], self.candidates[waiter] = best, figures
        line = self._line(best.instance)
        standing = Standing(overtaken_s=waiter.overtaken_s)
        slot = self._planner.slot(waiter, best.work, best.instance, standing)
        line.join(slot, best.option.before)

    def _order_of(self, figure: Figure) -> tuple[int, ...]:
        load, *turn = self._rank(figure.instance)
        return load + len(self._line(figure.instance)), *turn

    def _figure(self, waiter: Waiter, work: Work, instance: Instance) -> Figure | None:
        """As :meth:`Planner.figures`, behind those that this plan sends there."""
        line = self._lines.get(instance)
        if line is None:
            known = self._known.get(work.fingerprint)
            if known is None:
                slot = self._planner.slot(waiter, work, instance)
                figures = self._planner.figures(slot, self._instances)
                known = self._known[work.fingerprint] = {one.instance: one for one in figures}
            return known.get(instance)
        key = (instance, work.fingerprint)
        found = self._kept.get(key)
        if found is None or found[0] != line.changes:
            slot = self._planner.slot(waiter, work, instance)
            weighed = self._planner.weigh(slot, line, slot.run_s)
            found = self._kept[key] = line.changes, *weighed
        _, option, harm_s = found
        return Figure(
            instance=instance, work=work, free_in_s=line.offset_s, option=option, harm_s=harm_s
        )

    def _line(self, instance: Instance) -> Line:
        """What is to come after all that waits there already."""
        line = self._lines.get(instance)
        if line is None:
            real = self._planner.lines[instance]
            begins_in_s = self._planner.free_in_s(instance) + real.after()[1]
            line = self._lines[instance] = beyond(real, begins_in_s)
        return line
