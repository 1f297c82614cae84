"""Why a prompt went where it went: the seconds that were foreseen for it, and one plain sentence.

Made where the choice is made, at once or for the log only if that is read; a decision keeps no
prompt and no graph alive.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from typing import Final

from comfy_proxy.cluster.instance import Instance, runs_empty
from comfy_proxy.cluster.planning.figures import Figure, tie_s
from comfy_proxy.cluster.planning.planner import Planner

MAX_ALTERNATIVES: Final = 8
"""So many of the instances that were not chosen are remembered, those that came out best."""

ONLY: Final = "the only instance that can run it"
ONLY_LEFT: Final = "the only instance left that can run it"
ONLY_HEARD: Final = "the only instance at which its client can be heard now"
ONLY_KNOWN: Final = "the only instance of which it is known what it can run"
LACKS_LEAST: Final = "no instance can run it, and this one lacks least"
BUSY: Final = "no instance has answered the check, and this one is busy, not dead"
FEWEST: Final = "fewest prompts (nothing is known of its cost)"
LOADED: Final = "its models are loaded there"
LOADED_BY_THEN: Final = "its models are loaded there when its turn comes"
EQUAL: Final = "fewest prompts of those that finish it first"
MAKER: Final = "a result that it names is made there"
LOST: Final = "its instance has lost it, and this one is the best of those that can run it"
MOVED: Final = "it was moved there"


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """What was foreseen for a prompt at the instance ``host``, in seconds from the decision on:
    the wait for what is ahead of it, its load, its run; ``harm_s`` is the loading that it causes to
    others."""

    host: str
    wait_s: float
    load_s: float
    run_s: float
    harm_s: float = 0.0

    @property
    def finish_s(self) -> float:
        return self.wait_s + self.load_s + self.run_s

    @property
    def cost_s(self) -> float:
        """By this they were compared."""
        return self.finish_s + self.harm_s

    @classmethod
    def of(cls, figure: Figure) -> Candidate:
        return cls(
            host=figure.instance.host,
            wait_s=figure.free_in_s + figure.option.behind_s,
            load_s=figure.option.load_s,
            run_s=figure.option.run_s,
            harm_s=figure.harm_s,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """That a prompt goes to the instance ``host``. ``chosen`` is what was foreseen for it there,
    None if nothing was known; ``alternatives`` are the others, the best one first."""

    host: str
    reason: str
    chosen: Candidate | None = None
    alternatives: tuple[Candidate, ...] = ()

    def __str__(self) -> str:
        """One line for the log."""
        one = self.chosen
        if one is None:
            return self.reason
        parts = [f"waits {_s(one.wait_s)}", f"loads {_s(one.load_s)}", f"runs {_s(one.run_s)}"]
        if one.harm_s:
            parts.append(f"costs others {_s(one.harm_s)}")
        others = "".join(
            f"; {other.host}: done in {_s(other.finish_s)}"
            + (f", costs others {_s(other.harm_s)}" if other.harm_s else "")
            for other in self.alternatives
        )
        return f"{self.reason} ({', '.join(parts)}{others})"


def decide(
    instance: Instance, figures: Sequence[Figure], planner: Planner, *, only: str | None = None
) -> Decision:
    """Why ``instance`` was chosen among those of ``figures``, or by ``only`` if that is why.

    Without figures it had the fewest prompts.
    """
    chosen = next((one for one in figures if one.instance is instance), None)
    if chosen is None:
        return Decision(host=instance.host, reason=only or FEWEST)
    others = (one for one in figures if one is not chosen)
    best = nsmallest(MAX_ALTERNATIVES, others, key=lambda figure: figure.cost_s)
    own, rivals = Candidate.of(chosen), tuple(map(Candidate.of, best))
    if only is None:
        loaded = not planner.lines[instance].loaded.missing(chosen.work.models)
        only = _compared(own, rivals[0], loaded=loaded) if rivals else ONLY_KNOWN
    return Decision(host=own.host, reason=only, chosen=own, alternatives=rivals)


def moved(key: Hashable, busy: Instance, idle: Instance, planner: Planner) -> Decision:
    """Why the prompt that waits at ``busy`` under ``key`` goes to ``idle``; before it does."""
    if runs_empty(busy):
        return Decision(host=idle.host, reason=f"{MOVED}: {busy.host} is to run empty")
    slot, end_in_s = planner.lines[busy].find(key), planner.end_in_s(key, busy)
    figures = [] if slot is None else planner.figures(slot, [idle])
    if slot is None or end_in_s is None or not figures:
        return Decision(host=idle.host, reason=f"{MOVED}: fewer prompts than at {busy.host}")
    wait_s = max(0.0, end_in_s - slot.load_s - slot.run_s)
    before = Candidate(host=busy.host, wait_s=wait_s, load_s=slot.load_s, run_s=slot.run_s)
    chosen = Candidate.of(figures[0])
    return Decision(
        host=idle.host,
        reason=f"{MOVED}: {_against(chosen, before)}",
        chosen=chosen,
        alternatives=(before,),
    )


def _compared(chosen: Candidate, rival: Candidate, *, loaded: bool) -> str:
    """What decided between the chosen one and the best of the others."""
    tie = tie_s(chosen.run_s)
    if rival.cost_s - chosen.cost_s <= tie:
        return EQUAL
    if not chosen.load_s and rival.cost_s - rival.load_s <= chosen.cost_s + tie:
        return LOADED if loaded else LOADED_BY_THEN
    if rival.finish_s <= chosen.finish_s:
        return f"at {rival.host} others would have to load for {_s(rival.harm_s)} because of it"
    return f"it is finished first there: {_against(chosen, rival)}"


def _against(chosen: Candidate, other: Candidate) -> str:
    return f"{_s(chosen.finish_s)} against {_s(other.finish_s)} at {other.host}"


def _s(seconds: float) -> str:
    """``1.9 s``, ``12.3 s``, ``0.04 s``."""
    text = f"{seconds:.1f}" if seconds >= 10 else f"{seconds:.2f}"
    return f"{text.rstrip('0').rstrip('.')} s"
