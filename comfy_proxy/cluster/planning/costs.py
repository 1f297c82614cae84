"""What works cost at which instance: seconds to run, and seconds more to load their models.

Every answer is learned from executions. One that nobody has measured is borrowed from the nearest
that is: the same work elsewhere, another size of it, other works with its models; and it gives
way to measurements of its own, to a slower one after ENOUGH_RUNS of them.

Pure: no I/O, the clock is an argument.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from math import isfinite
from typing import Any, NamedTuple

from comfy_proxy.cluster.planning.costed import Costed
from comfy_proxy.cluster.planning.load_times import LoadTimes, Size, shares
from comfy_proxy.cluster.planning.samples import ENOUGH_RUNS
from comfy_proxy.cluster.planning.speeds import Speeds
from comfy_proxy.cluster.planning.work_times import WorkTimes

__all__ = ["COLD_SHARE", "MAX_S", "Costed", "Costs"]

COLD_SHARE = 0.5
"""What part of an execution is taken for loading while all that is known of its work is that it
took so long together with loading.

Half, because nothing tells which part is larger. The first warm run tells; being wrong until then
costs one placement."""
MAX_S = 30 * 24 * 3600.0
"""Longer times count as this, and no answer is longer."""

_MAX_COLD = 2_000
"""How many pairs of instance and work wait for a warm run that tells what of them was loading."""
_COLD_KEPT = 9
"""… and how many executions of each: as many as a median of loads is made of."""
_MAX_BORROWED = 50_000
"""How many borrowed answers are kept at a time."""


class _ColdRun(NamedTuple):
    """An execution of ``seconds`` in all, of which an unknown part was loading."""

    seconds: float
    shares: dict[str, float]
    at: float


class Costs:
    """Seconds by instance and work, learned; instances are told apart as keys of a dict are.

    ``version`` rises when an answer changed materially: it is the first of its kind, or moved by
    more than 10 %. What was concluded from answers holds until then, and ``on_change`` is told at
    which instance that was learnt, whatever others borrow from it; None: at all. ``loads_known`` is
    True once an execution had to load anything. ``size`` tells the bytes of a model at an
    instance, for those that were never loaded.
    """

    def __init__(self, size: Size = lambda _instance, _model: None) -> None:
        self.version = 0
        self.on_change: Callable[[Hashable | None], None] = lambda _instance: None
        self.loads_known = False
        self._size = size
        self._speeds = Speeds()
        self._warm = WorkTimes(self._speeds)
        self._halved = WorkTimes(self._speeds)
        """COLD_SHARE of cold executions; asked when _warm knows nothing near."""
        self._loads = LoadTimes(self._speeds, size)
        self._halved_loads = LoadTimes(self._speeds, size)
        """… and the rest of them."""
        self._cold: OrderedDict[tuple[Hashable, str], list[_ColdRun]] = OrderedDict()
        self._borrowed: dict[tuple[Hashable, str], float | None] = {}
        self._borrowed_loads: dict[tuple[Hashable, str], float] = {}
        self._turn = 0

    def learn(
        self,
        instance: Hashable,
        work: Costed,
        seconds: float,
        *,
        loaded: Mapping[str, float] | Collection[str],
        load_s: float | None = None,
        now: float,
    ) -> None:
        """Note one execution of ``seconds`` in all; no effect if that is negative or not finite.

        ``loaded`` are the models that had to be loaded for it, none if it was warm; as a mapping
        with their weights, like bytes. ``load_s`` is the part of the seconds that loading took,
        None if that was not seen.
        """
        if not isfinite(seconds) or seconds < 0:
            return
        seconds = min(seconds, MAX_S)
        if load_s is not None and not 0 <= load_s <= seconds:
            load_s = None
        self.loads_known |= bool(loaded)
        if not loaded:
            material = self._learn_warm(instance, work, seconds, now)
        elif load_s is not None:
            material = self._learn_warm(instance, work, seconds - load_s, now)
            material |= self._loads.add(instance, shares(loaded), load_s, now)
        else:
            material = self._learn_cold(instance, work, _ColdRun(seconds, shares(loaded), now))
        if material | self._settle(instance, work):
            self._changed(instance)

    def run_s(self, instance: Hashable, work: Costed, *, as_measured: bool = False) -> float | None:
        """Seconds that ``work`` runs at ``instance`` when its models are loaded.

        The median of what it took there: of fewer than ENOUGH_RUNS runs, unless ``as_measured``, no
        more than it takes where it ran as often. Else borrowed, in this order: it elsewhere, the
        nearest size of its kind there, that elsewhere, COLD_SHARE of cold executions likewise,
        works of other kinds with the same models. None if there is nothing of all that.
        """
        at_least = 1 if as_measured else ENOUGH_RUNS
        seconds = self._warm.here(instance, work.fingerprint, at_least)
        if seconds is not None:
            return seconds
        key = (instance, work.fingerprint)
        if key not in self._borrowed:
            if len(self._borrowed) >= _MAX_BORROWED:
                self._borrowed.clear()
            self._borrowed[key] = self._borrow(instance, work)
        return self._borrowed[key]

    def mean_run_s(self, instance: Hashable) -> float | None:
        """Seconds to expect there of a prompt of which nothing is known; None if nothing ran."""
        mean = self._warm.mean(instance)
        mean = self._halved.mean(instance) if mean is None else mean
        return None if mean is None else min(mean, MAX_S)

    def load_s(self, instance: Hashable, models: Iterable[str]) -> float:
        """Seconds to load all these there; 0.0 when nothing at all is known of loads.

        For each the median of its loads there; else of its loads elsewhere, else by what others
        take a byte, else by what they take.
        """
        here = self._loads.here(instance)
        seconds = 0.0
        for model in models:
            window = here.get(model)
            seconds += self._borrow_load(instance, model) if window is None else window.value
        return seconds

    def speed(self, instance: Hashable) -> float:
        """Relative seconds: 2.0 takes twice as long as the average, 1.0 if not known."""
        return self._speeds.speed(instance)

    def samples(self, instance: Hashable, work: Costed) -> int:
        """How many warm runs of exactly this work at this instance count."""
        return self._warm.samples(instance, work.fingerprint)

    def export(self, key: Callable[[Any], str], *, now: float) -> dict[str, Any]:
        """All that was learned as plain JSON data; ``key`` names an instance."""
        return {
            "format": 1,
            "warm": self._warm.export(key, now),
            "halved": self._halved.export(key, now),
            "loads": self._loads.export(key, now),
            "halved_loads": self._halved_loads.export(key, now),
            "cold": [
                [key(where), work, [[run.seconds, run.shares, now - run.at] for run in runs]]
                for (where, work), runs in self._cold.items()
            ],
            "speeds_of_runs": ENOUGH_RUNS,
            "speeds": {key(where): speed for where, speed in self._speeds.export()},
        }

    def restore(
        self,
        data: Mapping[str, Any],
        instance: Callable[[str], Hashable | None],
        *,
        now: float,
    ) -> None:
        """Know what :meth:`export` told, and nothing else.

        ``instance`` finds one by its key, None if it is gone: what was known of it goes too.
        ``now`` is on the clock of this process; samples are as old as they were when exported, so
        whoever knows how long ago that was subtracts it. Raises ValueError, and has changed
        nothing, for data that is not of :meth:`export`.
        """
        restored = Costs(self._size)
        try:
            restored._take(data, instance, now)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"these are no costs: {error!r}") from error
        restored.version, restored.on_change = self.version, self.on_change
        self.__dict__.update(restored.__dict__)
        self._changed(None)

    def _take(
        self, data: Mapping[str, Any], instance: Callable[[str], Hashable | None], now: float
    ) -> None:
        if data["format"] != 1:
            raise ValueError(f"format {data['format']!r}")
        # Earlier versions had them from single runs: they are learned anew.
        if data.get("speeds_of_runs") == ENOUGH_RUNS:
            speeds = {instance(key): float(speed) for key, speed in data["speeds"].items()}
            speeds.pop(None, None)
            self._speeds.restore(speeds)
        self._warm.restore(data["warm"], instance, now)
        self._halved.restore(data["halved"], instance, now)
        self._loads.restore(data["loads"], instance, now)
        self._halved_loads.restore(data["halved_loads"], instance, now)
        for key, work, runs in data["cold"]:
            if (where := instance(key)) is not None:
                self._cold[where, work] = [
                    _ColdRun(float(seconds), dict(parts), now - float(age_s))
                    for seconds, parts, age_s in runs
                ]

    def _learn_warm(self, instance: Hashable, work: Costed, seconds: float, now: float) -> bool:
        """… and what it tells of speeds: of this instance, and in turn of one that shares it."""
        material = self._warm.add(instance, work, seconds, now)
        there = self._warm.instances(work.fingerprint)
        self._turn += 1
        for one in (instance, there[self._turn % len(there)]):
            material |= self._speeds.learn(one, self._warm.shared(one))
        return material

    def _learn_cold(self, instance: Hashable, work: Costed, run: _ColdRun) -> bool:
        """Keep it until :meth:`_settle` can tell; until then a part of it stands for the run."""
        key = (instance, work.fingerprint)
        self._cold[key] = [*self._cold.get(key, ())[-_COLD_KEPT + 1 :], run]
        self._cold.move_to_end(key)
        if len(self._cold) > _MAX_COLD:
            self._cold.popitem(last=False)
        if self._warm.near(instance, work) is not None:
            return False
        load_s = run.seconds * (1 - COLD_SHARE)
        material = self._halved_loads.add(instance, run.shares, load_s, run.at)
        return self._halved.add(instance, work, run.seconds * COLD_SHARE, run.at) or material

    def _settle(self, instance: Hashable, work: Costed) -> bool:
        """Loading is what cold executions took longer than a warm one does, if that is known.

        0.0 for one that took no longer: what costs nothing to load must be known to cost nothing.
        """
        run_s = self._warm.near(instance, work)
        if run_s is None:
            return False
        material = False
        for run in self._cold.pop((instance, work.fingerprint), ()):
            extra = max(run.seconds - run_s, 0.0)
            material |= self._loads.add(instance, run.shares, extra, run.at)
        return material

    def _borrow(self, instance: Hashable, work: Costed) -> float | None:
        for answer in (self._warm.near, self._halved.near, self._warm.alike, self._halved.alike):
            seconds = answer(instance, work)
            if seconds is not None:
                return min(seconds, MAX_S)
        return None

    def _borrow_load(self, instance: Hashable, model: str) -> float:
        """Each way first with what was measured, then with what cold executions suggest."""
        key = (instance, model)
        if key not in self._borrowed_loads:
            if len(self._borrowed_loads) >= _MAX_BORROWED:
                self._borrowed_loads.clear()
            loads, halved = self._loads, self._halved_loads
            ways = (loads.known, halved.known, loads.inferred, halved.inferred)
            answers = (answer(instance, model) for answer in ways)
            self._borrowed_loads[key] = next(
                (min(one, MAX_S) for one in answers if one is not None), 0.0
            )
        return self._borrowed_loads[key]

    def _changed(self, instance: Hashable | None) -> None:
        self.version += 1
        self._borrowed.clear()
        self._borrowed_loads.clear()
        self.on_change(instance)


def forget(costs: Costs, gone: Hashable, *, now: float) -> None:
    """Have ``costs`` know nothing of an instance that has left."""
    keys: dict[str, Hashable] = {}

    def key(where: Hashable) -> str:
        name = str(id(where))
        keys[name] = where
        return name

    def left(name: str) -> Hashable | None:
        return None if keys[name] is gone else keys[name]

    loads_known, exported = costs.loads_known, costs.export(key, now=now)
    costs.restore(exported, left, now=now)
    costs.loads_known = loads_known
