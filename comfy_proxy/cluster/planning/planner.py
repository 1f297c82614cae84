"""Which instance finishes a prompt first, where in its line it goes, and when it will be done.

The figure is the wait for what is ahead of it, with the loads that this will cause, then its own
load, then its run. Where it would push out a model that others have asked for just now, the load
that they will have to pay again counts too. With nothing learned there is no figure, and the fewest
prompts decide (``load_balancer.py``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, NamedTuple

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.planning.costs import Costs
from comfy_proxy.cluster.planning.demand import Demand
from comfy_proxy.cluster.planning.joining import option
from comfy_proxy.cluster.planning.line import Line
from comfy_proxy.cluster.planning.loaded import LoadedModels, Memory, Models
from comfy_proxy.cluster.planning.model_files import ModelFiles
from comfy_proxy.cluster.planning.slot import Option, Slot, Standing
from comfy_proxy.cluster.planning.work import Work

NEW: Final = Standing()
TIE_SHARE: Final = 0.05
TIE_S: Final = 0.1
"""Finishes that differ by less than this share of the run, or these seconds, count as equal, and
the fewest prompts decide: a figure is no better than that where others use the machine too."""
SLOWER_SHARE: Final = 0.25
"""An instance that takes longer than another one by no more than this share is as good to move to:
how long a prompt takes is not known better."""
MAX_KEPT: Final = 256
"""The options of so many sorts of work are kept; for one more the oldest go, and are worked out
anew."""
KEPT_S: Final = 5.0
"""Seconds for which an option is kept at most: what is in demand, whose patience ends, and what is
learnt at other instances changes while nothing happens at this one."""


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


class _Kept(NamedTuple):
    """An option that was worked out, and for what state of its line and of what is known."""

    stamp: tuple[int, int, int]
    option: Option
    harm_s: float
    own_s: float  # option.end_s


_Weighed = tuple[float, Instance, float, _Kept, float]
"""A figure in the making, of which there may be hundreds for one choice: its cost, its instance,
when that is free, the option there, and the seconds of loading that it causes to others."""


class Planner:
    """One line for each instance. ``patience_s`` is AFFINITY_PATIENCE, None if it is learned."""

    def __init__(
        self,
        instances: Sequence[Instance],
        *,
        clock: Clock,
        costs: Costs,
        files: ModelFiles,
        patience_s: float | None = None,
    ) -> None:
        self._now = clock.monotonic
        self.costs = costs
        self.files = files
        self.lines = {one: _line(one, costs, files, patience_s) for one in instances}
        self._demand = Demand(self.lines)
        # Options grow old at different moments, so that no choice has to work them all out.
        self._phases = {one: index / len(self.lines) for index, one in enumerate(self.lines)}
        self._kept: OrderedDict[Hashable, dict[Instance, _Kept]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Planner {sum(map(len, self.lines.values()))} prompts>"

    # --- what waits where --------------------------------------------------------------------

    def slot(
        self,
        key: Hashable,
        work: Work,
        instance: Instance,
        standing: Standing = NEW,
    ) -> Slot:
        """A place in the line of ``instance``, which it does not take yet."""
        since = standing.since
        return Slot(
            key=key,
            work=work,
            run_s=self.run_s(work, instance) or 0.0,
            since=self._now() if since is None else since,
            client=standing.client,
            fixed=standing.fixed,
        )

    def asked(self, work: Work) -> None:
        """Somebody wants ``work``: its models are in demand, and their sizes of interest."""
        if not work.models:
            return
        if self._demand.asked(work.models, self._now()):
            for instance in self.lines:
                self.files.wanted(instance, work.models)

    def forget_loaded(self, instance: Instance) -> None:
        """Its memory was freed, or its process may have ended: nothing is loaded there."""
        self.lines[instance].loaded.forget()
        self.lines[instance].counter = inf

    # --- seconds -----------------------------------------------------------------------------

    def run_s(self, work: Work, instance: Instance) -> float | None:
        """Seconds that ``work`` runs there once its models are loaded; of a kind that was never
        measured what all work there takes on average. None if nothing was measured at all."""
        return _run_s(work, instance, self.costs)

    def free_in_s(self, instance: Instance) -> float:
        """Seconds until what runs there has ended, that of strangers included: each of their
        prompts, of which nothing is known but that it is there, counts as an average one."""
        return _free_in_s(instance, self.lines[instance], self.costs, self._now())

    def end_in_s(self, key: Hashable, instance: Instance) -> float | None:
        """Seconds until that prompt has ended there; None if it is not in the line."""
        line = self.lines[instance]
        end_s = line.end_s(key)
        if end_s is None:
            return None
        if line.find(key) is line.running:
            return line.free_in_s(self._now())
        return self.free_in_s(instance) + end_s

    # --- figures -----------------------------------------------------------------------------

    def figures(self, slot: Slot, instances: Iterable[Instance]) -> list[Figure]:
        """One for each of ``instances``, or none if nothing is known of what anything costs.

        ``slot`` may be one of any instance.
        """
        return [_figure(one, slot.work) for one in self._weighed(slot, instances)]

    def best(self, slot: Slot, instances: Iterable[Instance]) -> list[Figure]:
        """Those of ``instances`` that come out best, equals included, the best one first; none if
        nothing is known."""
        weighed = self._weighed(slot, instances)
        if not weighed:
            return []
        least = min(weighed, key=_cost)
        limit = least[0] + tie_s(least[3].option.run_s)
        tied = [one for one in weighed if one[0] <= limit]
        return [_figure(one, slot.work) for one in sorted(tied, key=_cost)]

    def _weighed(self, slot: Slot, instances: Iterable[Instance]) -> list[_Weighed]:
        # Without its client: that may change its place in a line, and hardly when it is finished.
        known, now = self._kept_for((slot.work.fingerprint, slot.fixed)), self._now()
        versions, epoch = self.costs.versions, now / KEPT_S
        crowding: set[Instance] | None = None
        asked = False
        weighed = []
        for instance in instances:
            line = self.lines[instance]
            stamp = (line.changes, versions.get(instance, 0), int(epoch + self._phases[instance]))
            kept = known.get(instance)
            if kept is None or kept.stamp != stamp:
                kept = self._work_out(slot, instance, stamp)
                if kept is None:
                    return []
                known[instance] = kept
            _, option, harm_s, own_s = kept
            if option.load_s:
                if not asked:
                    asked, crowding = True, self._demand.crowding(slot.work.models, now)
                if crowding is not None and instance in crowding:
                    harm_s += option.load_s
            free_in_s = _free_in_s(instance, line, self.costs, now)
            weighed.append((free_in_s + own_s + harm_s, instance, free_in_s, kept, harm_s))
        return weighed

    def gains(self, key: Hashable, busy: Instance, idle: Instance) -> bool:
        """Whether a prompt that waits at ``busy`` had better go to ``idle``, where less is to do.

        It had if that needs no load and takes no longer there, or if nothing is known; otherwise if
        it is finished earlier there, the loads that this causes included.
        """
        slot, end_in_s = self.lines[busy].find(key), self.end_in_s(key, busy)
        if slot is None or end_in_s is None:
            return True
        figures = self.figures(slot, [idle])
        if not figures:
            return True
        figure = figures[0]
        run_s = self.run_s(slot.work, busy) or figure.option.run_s
        if figure.extra_s == 0 and figure.option.run_s <= run_s * (1 + SLOWER_SHARE):
            return True
        return figure.cost_s + tie_s(slot.run_s) < end_in_s

    def _kept_for(self, key: Hashable) -> dict[Instance, _Kept]:
        kept = self._kept.setdefault(key, {})
        self._kept.move_to_end(key)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return kept

    def weigh(self, slot: Slot, line: Line, run_s: float) -> tuple[Option, float]:
        """What ``line`` would do with ``slot``, which runs ``run_s`` there, and the seconds of
        loading that this causes to others."""
        now = self._now()
        found = option(line, slot, now, run_s)
        return found, self._demand.harm_s(slot.work.models, line, now) if found.load_s else 0.0

    def join(self, slot: Slot, instance: Instance) -> None:
        """It waits at ``instance`` now, where it is best placed."""
        line = self.lines[instance]
        line.join(slot, option(line, slot, self._now(), slot.run_s).before)

    def _work_out(
        self, slot: Slot, instance: Instance, stamp: tuple[int, int, int]
    ) -> _Kept | None:
        run_s = self.run_s(slot.work, instance)
        if run_s is None:
            return None
        found, harm_s = self.weigh(slot, self.lines[instance], run_s)
        return _Kept(stamp, found, harm_s, found.end_s)


def _run_s(work: Work, instance: Instance, costs: Costs) -> float | None:
    known = costs.run_s(instance, work)
    return costs.mean_run_s(instance) if known is None else known


def _free_in_s(instance: Instance, line: Line, costs: Costs, now: float) -> float:
    strangers = instance.prompts.total - len(line)
    if strangers <= 0:
        return line.free_in_s(now)
    return line.free_in_s(now) + strangers * (costs.mean_run_s(instance) or 0.0)


def _cost(one: _Weighed) -> float:
    return one[0]


def _figure(one: _Weighed, work: Work) -> Figure:
    _, instance, free_in_s, kept, harm_s = one
    return Figure(
        instance=instance, work=work, free_in_s=free_in_s, option=kept.option, harm_s=harm_s
    )


def _line(instance: Instance, costs: Costs, files: ModelFiles, patience_s: float | None) -> Line:
    def loads(models: Models) -> float:
        return costs.load_s(instance, models) if models else 0.0

    def runs(work: Work) -> float:
        return _run_s(work, instance, costs) or 0.0

    memory = Memory(lambda model: files.size(instance, model))
    return Line(LoadedModels(memory), loads, runs=runs, patience_s=patience_s)


def tie_s(run_s: float) -> float:
    """Seconds by which two figures may differ and count as equal, for a run of ``run_s``."""
    return max(TIE_S, TIE_SHARE * run_s)
