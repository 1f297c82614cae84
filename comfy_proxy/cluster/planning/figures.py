"""What one more prompt would cost at each instance, and which of them come out best.

There may be hundreds of instances and a choice for every prompt, so whatever an instance would do
with a sort of work is kept until something changes there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Final, NamedTuple

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.planning.costs import Costs
from comfy_proxy.cluster.planning.demand import Demand
from comfy_proxy.cluster.planning.joining import absent, option
from comfy_proxy.cluster.planning.line import Line
from comfy_proxy.cluster.planning.slot import Option, Slot
from comfy_proxy.cluster.planning.work import Work
from comfy_proxy.cluster.roster import ByInstance

TIE_SHARE: Final = 0.05
TIE_S: Final = 0.1
"""Finishes that differ by less than this share of the run, or these seconds, count as equal, and
the fewest prompts decide: a figure is no better than that where others use the machine too."""
MAX_KEPT: Final = 256
"""The options of so many sorts of work are kept; for one more the oldest go, and are worked out
anew."""
KEPT_S: Final = 5.0
"""Seconds for which an option is kept at most: what is in demand, whose patience ends, and what is
learnt at other instances changes while nothing happens at this one."""
_GOLDEN: Final = 0.6180339887
"""Multiples of it, less their whole parts, lie far apart, however many there are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """What a prompt would cost at ``instance``: seconds until that is free, then those of
    ``option``; ``harm_s`` are the seconds of loading that it causes to others."""

    instance: Instance
    work: Work
    free_in_s: float
    option: Option
    harm_s: float = 0.0

    @property
    def finish_s(self) -> float:
        return self.free_in_s + self.option.end_s

    @property
    def extra_s(self) -> float:
        """Seconds of loading that it causes, to itself and to others."""
        return self.option.load_s + self.harm_s

    @property
    def cost_s(self) -> float:
        return self.finish_s + self.harm_s


class Figures:
    """Over ``lines``, those of all instances; ``now`` gives monotonic seconds."""

    def __init__(
        self,
        lines: Mapping[Instance, Line],
        costs: Costs,
        demand: Demand,
        now: Callable[[], float],
    ) -> None:
        self._lines = lines
        self._costs = costs
        self._demand = demand
        self._now = now
        # Options grow old at different moments, so that no choice has to work them all out.
        self._phases = ByInstance(lambda one: KEPT_S * (len(self._phases) * _GOLDEN % 1))
        self._kept: OrderedDict[Hashable, dict[Instance, _Kept]] = OrderedDict()

    def forget(self, instance: Instance) -> None:
        """It has left."""
        for known in self._kept.values():
            known.pop(instance, None)

    def of(self, slot: Slot, instances: Iterable[Instance]) -> list[Figure]:
        """One for each of ``instances``, or none if nothing is known of what anything costs. Its
        option does not tell whom it would overtake.

        ``slot`` may be one of any instance.
        """
        found = _Found(slot.work, self._demand, self._now(), only_best=False)
        self._find(found, slot, instances)
        return found.figures()

    def best(self, slot: Slot, instances: Iterable[Instance]) -> list[Figure]:
        """Those of ``instances`` that come out best, equals included, the best one first; none if
        nothing is known."""
        found = _Found(slot.work, self._demand, self._now(), only_best=True)
        self._find(found, slot, instances)
        return sorted(found.figures(), key=lambda one: one.cost_s)

    def weigh(self, slot: Slot, line: Line, run_s: float) -> tuple[Option, float]:
        """What ``line`` would do with ``slot``, which runs ``run_s`` there, and the seconds of
        loading that this causes to others."""
        now = self._now()
        found = option(line, slot, run_s)
        return found, self._demand.harm_s(slot.work.models, line, now) if found.load_s else 0.0

    def _find(self, found: _Found, slot: Slot, instances: Iterable[Instance]) -> None:
        # Without its client: that may change its place in a line, and hardly when it is finished.
        known = self._kept_for((slot.work.fingerprint, slot.fixed))
        lines, costs, work, now = self._lines, self._costs, slot.work, found.now
        demand = self._demand.version
        bounded: list[tuple[Instance, float, _Kept]] = []
        for instance in instances:
            if instance.left:
                continue
            line = lines[instance]
            kept = known.get(instance)
            if (
                kept is None
                or kept.changes != line.changes
                or kept.demand != demand
                or kept.until <= now
            ):
                run_s = run_of(work, instance, costs)
                if run_s is None:
                    found.clear()
                    return
                kept = known[instance] = self._bound(work, instance, run_s, now)
            if kept.own_s > found.limit_s:
                continue
            free_in_s = free_in(instance, line, costs, now)
            if kept.option is None:
                bounded.append((instance, free_in_s, kept))
            else:
                found.add(instance, free_in_s, kept.own_s, kept.option, kept.harm_s)
        for instance, free_in_s, kept in bounded:
            if free_in_s + kept.own_s <= found.limit_s:
                option, harm_s = self.weigh(slot, lines[instance], kept.run_s)
                option = _alone(option)
                own_s = option.end_s + harm_s
                known[instance] = kept._replace(own_s=own_s, option=option, harm_s=harm_s)
                found.add(instance, free_in_s, own_s, option, harm_s)

    def _kept_for(self, key: Hashable) -> dict[Instance, _Kept]:
        kept = self._kept.setdefault(key, {})
        self._kept.move_to_end(key)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return kept

    def _bound(self, work: Work, instance: Instance, run_s: float, now: float) -> _Kept:
        """It costs its run at least, and the load of the models that nobody there uses."""
        line, phase_s = self._lines[instance], self._phases[instance]
        least_s = run_s + line.loads(absent(line, work.models))
        until = now + KEPT_S - (now + phase_s) % KEPT_S
        return _Kept(line.changes, self._demand.version, until, run_s, least_s)


class _Kept(NamedTuple):
    """What an instance would do with a sort of work: it holds until ``until`` (monotonic seconds)
    at most, and only while the line counts as many ``changes`` and as much is in ``demand``.

    ``own_s`` is what it costs from when the instance is free; or less, as long as that may be too
    much, and ``option`` was not worked out.
    """

    changes: int
    demand: int
    until: float
    run_s: float
    own_s: float
    option: Option | None = None
    harm_s: float = 0.0


class _Found:
    """What comes out of one choice. Whatever costs more than ``limit_s`` need not be added: with
    ``only_best`` that is the least that was found so far, and what counts as equal."""

    def __init__(self, work: Work, demand: Demand, now: float, *, only_best: bool) -> None:
        self.now = now
        self.limit_s = inf
        self._work = work
        self._demand = demand
        self._only_best = only_best
        self._found: list[tuple[float, Instance, float, Option, float]] = []

    @cached_property
    def _crowding(self) -> set[Instance]:
        return self._demand.crowding(self._work.models, self.now)

    def add(
        self, instance: Instance, free_in_s: float, own_s: float, option: Option, harm_s: float
    ) -> None:
        """``own_s`` is what it costs there once the instance is free, ``harm_s`` a part of it."""
        cost_s = free_in_s + own_s
        if cost_s > self.limit_s:
            return
        if option.load_s and instance in self._crowding:
            harm_s += option.load_s
            cost_s += option.load_s
        self._found.append((cost_s, instance, free_in_s, option, harm_s))
        if self._only_best:
            self.limit_s = min(self.limit_s, cost_s + tie_s(option.run_s))

    def figures(self) -> list[Figure]:
        return [
            Figure(
                instance=instance,
                work=self._work,
                free_in_s=free_in_s,
                option=option,
                harm_s=harm_s,
            )
            for cost_s, instance, free_in_s, option, harm_s in self._found
            if cost_s <= self.limit_s
        ]

    def clear(self) -> None:
        self._found.clear()


def run_of(work: Work, instance: Instance, costs: Costs) -> float | None:
    """Seconds that ``work`` runs there once its models are loaded; of a kind that was never
    measured what all work there takes on average. None if nothing was measured at all."""
    known = costs.run_s(instance, work)
    return costs.mean_run_s(instance) if known is None else known


def free_in(instance: Instance, line: Line, costs: Costs, now: float) -> float:
    """Seconds until what runs there has ended, that of strangers included: each of their prompts,
    of which nothing is known but that it is there, counts as an average one."""
    strangers = instance.prompts.total - len(line)
    if strangers <= 0:
        return line.free_in_s(now)
    return line.free_in_s(now) + strangers * (costs.mean_run_s(instance) or 0.0)


def _alone(option: Option) -> Option:
    """``option`` without the prompt that it would overtake: what is kept keeps no prompt alive."""
    if option.before is None:
        return option
    return Option(behind_s=option.behind_s, load_s=option.load_s, run_s=option.run_s)


def equals(figures: Sequence[Figure]) -> list[Figure]:
    """Those of ``figures`` that cost as little as the best one, as far as that can be told."""
    limit_s = min(one.cost_s + tie_s(one.option.run_s) for one in figures)
    return [one for one in figures if one.cost_s <= limit_s]


def tie_s(run_s: float) -> float:
    """Seconds by which two figures may differ and count as equal, for a run of ``run_s``."""
    return max(TIE_S, TIE_SHARE * run_s)
