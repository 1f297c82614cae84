"""Which instance finishes a prompt first, where in its line it goes, and when it will be done.

The figure is the wait for what is ahead of it, with the loads that this will cause, then its own
load, then its run. Where it would push out a model that others have asked for just now, the load
that they will have to pay again counts too. With nothing learned there is no figure, and the fewest
prompts decide (``load_balancer.py``).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from math import inf
from typing import Final

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.planning.costs import Costs, forget
from comfy_proxy.cluster.planning.demand import Demand
from comfy_proxy.cluster.planning.figures import Figure, Figures, free_in, run_of, tie_s
from comfy_proxy.cluster.planning.joining import option
from comfy_proxy.cluster.planning.line import Line
from comfy_proxy.cluster.planning.loaded import LoadedModels, Memory, Models
from comfy_proxy.cluster.planning.model_files import ModelFiles
from comfy_proxy.cluster.planning.slot import Option, Slot, Standing
from comfy_proxy.cluster.planning.work import Work
from comfy_proxy.cluster.roster import ByInstance, Roster

NEW: Final = Standing()
SLOWER_SHARE: Final = 0.25
"""An instance that takes longer than another one by no more than this share is as good to move to:
how long a prompt takes is not known better."""


class Planner:
    """One line for each instance. ``patience_s`` is AFFINITY_PATIENCE, None if it is learned."""

    def __init__(
        self,
        instances: Iterable[Instance],
        *,
        clock: Clock,
        costs: Costs,
        files: ModelFiles,
        patience_s: float | None = None,
    ) -> None:
        self._now = clock.monotonic
        self.costs = costs
        self.files = files
        self.lines = ByInstance(lambda one: _line(one, costs, files, patience_s))
        roster = Roster.of(instances)
        roster.each(self.lines.__getitem__)
        roster.on_removed.append(self._removed)
        self._demand = Demand(self.lines)
        self._figures = Figures(self.lines, costs, self._demand, clock.monotonic)
        costs.on_change = self._costs_changed

    def __repr__(self) -> str:
        return f"<Planner {sum(map(len, self.lines.values()))} prompts>"

    def _removed(self, instance: Instance) -> None:
        self._figures.forget(instance)
        forget(self.costs, instance, now=self._now())

    # --- what waits where --------------------------------------------------------------------

    def slot(
        self,
        key: Hashable,
        work: Work,
        instance: Instance,
        standing: Standing = NEW,
    ) -> Slot:
        """A place in the line of ``instance``, which it does not take yet."""
        return Slot(
            key=key,
            work=work,
            run_s=self.run_s(work, instance) or 0.0,
            client=standing.client,
            fixed=standing.fixed,
            overtaken_s=standing.overtaken_s,
        )

    def asked(self, work: Work) -> None:
        """Somebody wants ``work``: its models are in demand, and their sizes of interest."""
        if not work.models:
            return
        if self._demand.asked(work.models, self._now()):
            for instance in self.lines:
                self.files.wanted(instance, work.models)

    def restarted(self, instance: Instance) -> None:
        """Its process may be another one: nothing is loaded there, and its first runs are slow."""
        self.forget_loaded(instance)
        self.lines[instance].runs_ended = 0

    def forget_loaded(self, instance: Instance) -> None:
        """Its memory was freed: nothing is loaded there."""
        self.lines[instance].loaded.forget()
        self.lines[instance].counter = inf

    # --- seconds -----------------------------------------------------------------------------

    def run_s(self, work: Work, instance: Instance) -> float | None:
        """Seconds that ``work`` runs there once its models are loaded; of a kind that was never
        measured what all work there takes on average. None if nothing was measured at all."""
        return run_of(work, instance, self.costs)

    def free_in_s(self, instance: Instance) -> float:
        """Seconds until what runs there has ended, that of strangers included: each of their
        prompts, of which nothing is known but that it is there, counts as an average one."""
        return free_in(instance, self.lines[instance], self.costs, self._now())

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
        return self._figures.of(slot, instances)

    def best(self, slot: Slot, instances: Iterable[Instance]) -> list[Figure]:
        """Those of ``instances`` that come out best, equals included, the best one first; none if
        nothing is known."""
        return self._figures.best(slot, instances)

    def gains(self, key: Hashable, busy: Instance, idle: Instance) -> bool:
        """Whether a prompt that waits at ``busy`` had better go to ``idle``, where less is to do.

        It had if nothing is known; otherwise as :func:`gains_beyond_s` has it.
        """
        slot, end_in_s = self.lines[busy].find(key), self.end_in_s(key, busy)
        if slot is None or end_in_s is None:
            return True
        figures = self.figures(slot, [idle])
        if not figures:
            return True
        return gains_beyond_s(slot, figures[0], self.run_s(slot.work, busy)) < end_in_s

    def weigh(self, slot: Slot, line: Line, run_s: float) -> tuple[Option, float]:
        """What ``line`` would do with ``slot``, which runs ``run_s`` there, and the seconds of
        loading that this causes to others."""
        return self._figures.weigh(slot, line, run_s)

    def join(self, slot: Slot, instance: Instance) -> None:
        """It waits at ``instance`` now, where it is best placed."""
        line = self.lines[instance]
        line.join(slot, option(line, slot, slot.run_s).before)

    def _costs_changed(self, instance: Hashable | None) -> None:
        """For ``costs.on_change``."""
        for one, line in self.lines.items():
            if instance is None or one is instance:
                line.changed()


def gains_beyond_s(slot: Slot, figure: Figure, run_s: float | None) -> float:
    """A prompt that waits had better go where ``figure`` is of if it would end in more than so many
    seconds where it is; it runs ``run_s`` there.

    If it needs no load elsewhere and takes no longer, it need not be finished earlier; otherwise it
    must be, the loads that this causes included.
    """
    option, tie = figure.option, tie_s(slot.run_s)
    if figure.extra_s == 0 and option.run_s <= (run_s or option.run_s) * (1 + SLOWER_SHARE):
        return figure.finish_s - tie
    return figure.cost_s + tie


def _line(instance: Instance, costs: Costs, files: ModelFiles, patience_s: float | None) -> Line:
    def loads(models: Models) -> float:
        return costs.load_s(instance, models) if models else 0.0

    def runs(work: Work) -> float:
        return run_of(work, instance, costs) or 0.0

    memory = Memory(lambda model: files.size(instance, model))
    return Line(LoadedModels(memory), loads, runs=runs, patience_s=patience_s)
