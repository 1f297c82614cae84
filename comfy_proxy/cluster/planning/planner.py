"""Which instance finishes a prompt first, where in its line it goes, and when it will be done.

The figure is the wait for what is ahead of it, with the loads that this will cause, then its own
load, then its run. Where it would push out a model that others have asked for just now, the load
that they will have to pay again counts too. With nothing learned there is no figure, and the fewest
prompts decide (``load_balancer.py``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.planning.costs import Costs
from comfy_proxy.cluster.planning.joining import option
from comfy_proxy.cluster.planning.line import Line
from comfy_proxy.cluster.planning.loaded import LoadedModels, Memory, Models, missing
from comfy_proxy.cluster.planning.model_files import ModelFiles
from comfy_proxy.cluster.planning.slot import Option, Slot, Standing
from comfy_proxy.cluster.planning.work import Work

NEW: Final = Standing()
TIE_SHARE: Final = 0.05
TIE_S: Final = 0.01
"""Finishes that differ by less than this share of the run, or these seconds, count as equal: the
figure is not better than that."""
DEMAND_LOADS: Final = 20
"""Models are in demand for so many times the seconds of their load after somebody asked for them:
whoever pushes them out meanwhile causes that load again."""
MAX_ASKED: Final = 1_000
SLOWER_SHARE: Final = 0.25
"""An instance that takes longer than another one by no more than this share is as good to move to:
how long a prompt takes is not known better."""
MAX_KEPT: Final = 256
"""So many sets of models that were asked for, and sorts of work whose options are kept, are
remembered; for one more the oldest goes, and is learnt or worked out anew."""
KEPT_S: Final = 10.0
"""Seconds for which an option is kept at most: what is in demand changes with the time alone."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kept:
    """An option that was worked out, and for what state of its line and of what is known."""

    stamp: tuple[int, int, int]
    option: Option
    harm_s: float


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
        self._clock = clock
        self.costs = costs
        self.files = files
        self.lines = {one: _line(one, costs, files, patience_s) for one in instances}
        self._asked: OrderedDict[Models, float] = OrderedDict()
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
            since=self._clock.monotonic() if since is None else since,
            client=standing.client,
            fixed=standing.fixed,
        )

    def asked(self, work: Work) -> None:
        """Somebody wants ``work``: its models are in demand, and their sizes of interest."""
        if not work.models:
            return
        self._asked[work.models] = self._clock.monotonic()
        self._asked.move_to_end(work.models)
        if len(self._asked) > MAX_ASKED:
            self._asked.popitem(last=False)
        for instance in self.lines:
            self.files.wanted(instance, work.models)

    def forget_loaded(self, instance: Instance) -> None:
        """Its memory was freed, or its process may have ended: nothing is loaded there."""
        self.lines[instance].loaded.forget()

    # --- seconds -----------------------------------------------------------------------------

    def run_s(self, work: Work, instance: Instance) -> float | None:
        """Seconds that ``work`` runs there once its models are loaded; of a kind that was never
        measured what all work there takes on average. None if nothing was measured at all."""
        known = self.costs.run_s(instance, work)
        return self.costs.mean_run_s(instance) if known is None else known

    def free_in_s(self, instance: Instance) -> float:
        """Seconds until what runs there has ended, that of strangers included: each of their
        prompts, of which nothing is known but that it is there, counts as an average one."""
        line = self.lines[instance]
        strangers = instance.load - len(line)
        mean_s = self.costs.mean_run_s(instance) if strangers > 0 else None
        return line.free_in_s(self._clock.monotonic()) + max(0, strangers) * (mean_s or 0.0)

    def end_in_s(self, key: Hashable, instance: Instance) -> float | None:
        """Seconds until that prompt has ended there; None if it is not in the line."""
        line = self.lines[instance]
        end_s = line.end_s(key)
        if end_s is None:
            return None
        if line.find(key) is line.running:
            return line.free_in_s(self._clock.monotonic())
        return self.free_in_s(instance) + end_s

    # --- figures -----------------------------------------------------------------------------

    def figures(self, slot: Slot, instances: Iterable[Instance]) -> list[Figure]:
        """One for each of ``instances``, or none if nothing is known of what anything costs.

        ``slot`` may be one of any instance.
        """
        kept = self._kept_for((slot.work.fingerprint, slot.client, slot.fixed))
        figures, epoch = [], int(self._clock.monotonic() / KEPT_S)
        for instance in instances:
            stamp = (self.lines[instance].changes, self.costs.version, epoch)
            found = kept.get(instance)
            if found is None or found.stamp != stamp or found.option.before is not None:
                found = self._work_out(slot, instance, stamp)
                if found is None:
                    return []
                kept[instance] = found
            figures.append(
                Figure(
                    instance=instance,
                    work=slot.work,
                    free_in_s=self.free_in_s(instance),
                    option=found.option,
                    harm_s=found.harm_s,
                )
            )
        return figures

    def best(self, slot: Slot, instances: Sequence[Instance]) -> list[Figure]:
        """Those of ``instances`` that come out best, equals included, the best one first; none if
        nothing is known."""
        figures = sorted(self.figures(slot, instances), key=lambda one: one.cost_s)
        if not figures:
            return []
        limit = figures[0].cost_s + tie_s(figures[0].option.run_s)
        return [one for one in figures if one.cost_s <= limit]

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
        if figure.extra_s == 0 and figure.option.run_s <= slot.run_s * (1 + SLOWER_SHARE):
            return True
        return figure.cost_s + tie_s(slot.run_s) < end_in_s

    def _kept_for(self, key: Hashable) -> dict[Instance, _Kept]:
        kept = self._kept.setdefault(key, {})
        self._kept.move_to_end(key)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return kept

    def weigh(self, slot: Slot, line: Line) -> tuple[Option, float]:
        """What ``line`` would do with ``slot``, and the seconds of loading that this causes to
        others."""
        found = option(line, slot, self._clock.monotonic())
        return found, self._harm_s(slot.work.models, line) if found.load_s > 0 else 0.0

    def join(self, slot: Slot, instance: Instance) -> None:
        """It waits at ``instance`` now, where it is best placed."""
        line = self.lines[instance]
        line.join(slot, option(line, slot, self._clock.monotonic()).before)

    def _work_out(
        self, slot: Slot, instance: Instance, stamp: tuple[int, int, int]
    ) -> _Kept | None:
        run_s = self.run_s(slot.work, instance)
        if run_s is None:
            return None
        option, harm_s = self.weigh(replace(slot, run_s=run_s), self.lines[instance])
        return _Kept(stamp=stamp, option=option, harm_s=harm_s)

    def _harm_s(self, models: Models, line: Line) -> float:
        """Seconds to load again what has to go for ``models`` and is in demand."""
        now, (held, _) = self._clock.monotonic(), line.after()
        left = line.loaded.memory.after(held, models)
        harm_s = 0.0
        for gone in held:
            if gone in left or not missing(left, gone):
                continue
            load_s = line.loads(missing(left, gone))
            asked = self._asked.get(gone)
            if asked is not None and now - asked <= DEMAND_LOADS * load_s:
                harm_s += load_s
        return harm_s


def _line(instance: Instance, costs: Costs, files: ModelFiles, patience_s: float | None) -> Line:
    def loads(models: Models) -> float:
        return costs.load_s(instance, models) if models else 0.0

    memory = Memory(lambda model: files.size(instance, model))
    return Line(LoadedModels(memory), loads, patience_s=patience_s)


def tie_s(run_s: float) -> float:
    """Seconds by which two figures may differ and count as equal, for a run of ``run_s``."""
    return max(TIE_S, TIE_SHARE * run_s)
