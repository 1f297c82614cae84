"""What one execution teaches: what its work costs there, and what that instance keeps loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.planning.line import Line
from comfy_proxy.cluster.planning.loaded import Models
from comfy_proxy.cluster.planning.planner import Planner
from comfy_proxy.cluster.planning.samples import moved
from comfy_proxy.cluster.planning.slot import Slot
from comfy_proxy.cluster.planning.work import Work
from comfy_proxy.metrics.records import ModelUse
from comfy_proxy.observers import tell

LOAD_SHARE: Final = 0.3
"""Models count as loaded for a prompt if it took longer than its warm run by more than this share
of what loading them takes; by less, they were there."""
FIRST_RUNS: Final = 1
"""So many warm runs of a process that were slower than believed teach nothing: a process that has
just begun still imports, allocates and compiles, and one that is restarted often would be believed
to be always that slow. What is slow for longer than that is learned with ENOUGH_RUNS more."""


@dataclass(kw_only=True, slots=True, eq=False)
class Run:
    """One execution while it goes on. ``missing`` are the models that were not loaded when it
    began, as far as was known; ``ago`` how many other prompts' models were used since its own.

    ``cached`` are the nodes that ComfyUI took from its cache, None if it did not tell; ``load_s``
    the seconds for which nodes that name models ran.
    """

    work: Work
    instance: Instance
    began_at: float
    missing: Models
    ago: int | None
    cached: frozenset[str] | None = None
    load_s: float | None = None
    _loads_since: float | None = field(default=None, repr=False)

    def reached(self, node: str, now: float) -> None:
        """It has come to ``node``."""
        self._end_load(now)
        if node in self.work.loaders:
            self._loads_since = now

    def elapsed_s(self, now: float) -> float:
        """Seconds since it began; to be asked at its end."""
        self._end_load(now)
        return now - self.began_at

    def _end_load(self, now: float) -> None:
        if self._loads_since is not None:
            self.load_s = (self.load_s or 0.0) + now - self._loads_since
            self._loads_since = None


class Experience:
    """Learns for ``planner``. ``on_run`` callbacks hear of each prompt with models that ended well,
    whether they had to be loaded."""

    def __init__(self, planner: Planner, clock: Clock) -> None:
        self._planner = planner
        self._clock = clock
        self.on_run: list[Callable[[ModelUse], None]] = []

    def begins(self, slot: Slot, line: Line, instance: Instance, now: float) -> Run:
        """``slot`` is about to run; to be called before the line knows that."""
        models = slot.work.models
        return Run(
            work=slot.work,
            instance=instance,
            began_at=now,
            missing=line.loaded.missing(models),
            ago=line.loaded.sets_since(models),
        )

    def ended(self, run: Run, seconds: float, *, worked: bool) -> None:
        """It ran to its end, in ``seconds``; ``worked`` is False if all came from the cache.

        That teaches nothing, nor does a run whose heavy nodes came from there.
        """
        if run.instance.left:
            return
        if not worked or (run.cached is not None and not run.work.heavy.isdisjoint(run.cached)):
            return
        loaded = self._loaded(run, seconds)
        self._correct_memory(run, bool(loaded))
        if loaded or not self._is_slow_start(run, seconds):
            self._learn(run, seconds, loaded)
        if run.work.models:
            costs = self._planner.costs
            load_s = min(seconds, costs.load_s(run.instance, loaded)) if loaded else 0.0
            use = ModelUse(instance=run.instance.host, loaded=bool(loaded), load_s=load_s)
            tell(self.on_run, use)

    def _learn(self, run: Run, seconds: float, loaded: Models) -> None:
        costs = self._planner.costs
        measured = costs.samples(run.instance, run.work) > 0
        costs.learn(
            run.instance,
            run.work,
            seconds,
            loaded=self._planner.files.share(run.instance, loaded) if loaded else {},
            load_s=None if measured or not loaded else run.load_s,
            now=self._clock.monotonic(),
        )

    def _loaded(self, run: Run, seconds: float) -> Models:
        """Which models had to be loaded for it."""
        work, costs = run.work, self._planner.costs
        if not work.models or (run.cached is not None and work.loaders <= run.cached):
            return ()
        candidates = run.missing or work.models
        # Models that should be there are missed only by what it takes there, of however few runs,
        # for a slow instance has not loaded for being slow. Of those that should be missing, one
        # slow first run does not tell that they were there.
        run_s = costs.run_s(run.instance, work, as_measured=not run.missing)
        load_s = costs.load_s(run.instance, candidates)
        if run_s is None or load_s <= 0:
            return run.missing
        if costs.samples(run.instance, work) == 0 and run.missing:
            return run.missing  # how long it runs there is borrowed: no proof of anything
        return candidates if seconds - run_s > LOAD_SHARE * load_s else ()

    def _is_slow_start(self, run: Run, seconds: float) -> bool:
        """Whether that was one of the FIRST_RUNS there, and slower than believed."""
        line = self._planner.lines[run.instance]
        line.runs_ended += 1
        believed_s = self._planner.costs.run_s(run.instance, run.work)
        if believed_s is None or line.runs_ended > FIRST_RUNS:
            return False
        return seconds > believed_s and moved(believed_s, seconds)

    def _correct_memory(self, run: Run, loaded: bool) -> None:
        """More, or less, was there than was assumed. Instances of one owner are mostly started with
        the same options: others with as much memory, of which nothing else is known, are taken to
        be alike."""
        lines = self._planner.lines
        own = lines[run.instance].loaded
        if loaded == bool(run.missing):
            return
        own.seen(run.work.models, ago=run.ago, loaded=loaded)
        for line in lines.values():
            memory = line.loaded.memory
            if memory.sets is None and memory.total == own.memory.total:
                memory.sets = own.memory.sets
            line.changed()
