"""How long works take at each instance, and what that says of works that never ran there.

Pure: no I/O; a sample brings its time along.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from statistics import fmean, median
from typing import Any

from comfy_proxy.cluster.planning.costed import Costed, log_effort, ratio
from comfy_proxy.cluster.planning.known_works import MAX_FINGERPRINTS, KnownWork, KnownWorks
from comfy_proxy.cluster.planning.samples import ENOUGH_RUNS, Window
from comfy_proxy.cluster.planning.speeds import SharedWork, Speeds

_RECENT = 50
"""Runs at an instance of which the mean for an unknown prompt is made."""
_KIND_LIMIT = 1_000.0
"""Within a kind efforts count as this far apart at most."""
_MODELS_LIMIT = 4.0
"""… and among works that only have their models in common, whose efforts hardly compare."""


class WorkTimes:
    """Median seconds by work and instance."""

    def __init__(self, speeds: Speeds) -> None:
        self._speeds = speeds
        self._works = KnownWorks()
        self._recent: dict[Hashable, Window] = {}
        self._inferred: dict[tuple[str, ...], float | None] = {}
        self._revision = 0

    def add(self, instance: Hashable, work: Costed, seconds: float, at: float) -> bool:
        """Note one run; returns if an answer is new or changed materially."""
        window = self._works.window(instance, work)
        material = window.add(seconds, at)
        if len(window) == ENOUGH_RUNS and len(self.instances(work.fingerprint)) > 1:
            material = True  # it counts as it is from now on, here and for those with fewer runs
        self._inferred.clear()
        if len(self._recent) > self._works.instances:
            self._recent = {
                one: window for one, window in self._recent.items() if self._works.knows(one)
            }
        # What an unknown prompt costs is a mean, because waiting times add up. Each run counts
        # with the median of its work, so that one outlier does not show in it.
        recent = self._recent.get(instance)
        if recent is None:
            recent = self._recent[instance] = Window(_RECENT, fmean)
        return recent.add(window.value, at) or material

    def here(self, instance: Hashable, fingerprint: str, at_least: int = 1) -> float | None:
        """Seconds of exactly this work at this instance; None of fewer than ``at_least`` runs."""
        known = self._works.get(fingerprint)
        window = None if known is None else known.windows.get(instance)
        return None if window is None or len(window) < at_least else window.value

    def samples(self, instance: Hashable, fingerprint: str) -> int:
        """Of how many runs :meth:`here` is the median."""
        known = self._works.get(fingerprint)
        return 0 if known is None else len(known.windows.get(instance, ()))

    def near(self, instance: Hashable, work: Costed) -> float | None:
        """Seconds here, else of this work elsewhere, else of the next in size of its kind.

        Those here are no more than what is proven elsewhere suggests until they are proven.
        """
        known = self._works.get(work.fingerprint)
        if known is not None:
            return self._of_work(instance, known)
        base = self._infer(("kind", work.fingerprint, work.kind), lambda: self._of_kind(work))
        if base is None:
            return None
        elsewhere_s = base * self._speeds.speed(instance)
        effort = log_effort(work)
        nearest = self._works.nearest_here(instance, work.kind, effort)
        if nearest is None:
            return elsewhere_s
        own_s = self._of_work(instance, nearest)
        own_s *= ratio(effort, nearest.log_effort, _KIND_LIMIT)
        if self._works.ran_enough(instance, work.kind):
            return own_s
        return min(own_s, elsewhere_s)

    def alike(self, instance: Hashable, work: Costed) -> float | None:
        """Seconds here as works of any kind with the same models suggest; None without models."""
        question = ("models", work.fingerprint, *work.models)
        base = self._infer(question, lambda: self._of_models(work))
        return None if base is None else base * self._speeds.speed(instance)

    def mean(self, instance: Hashable) -> float | None:
        """Mean seconds of the last _RECENT runs here, else of those elsewhere; of both the lower
        one as long as there are fewer than ENOUGH_RUNS here."""
        recent = self._recent.get(instance)
        if recent is not None and recent.proven:
            return recent.value
        base = self._infer(("mean",), self._mean_elsewhere)
        if base is None:
            return None
        elsewhere_s = base * self._speeds.speed(instance)
        return elsewhere_s if recent is None else min(recent.value, elsewhere_s)

    def instances(self, fingerprint: str) -> list[Hashable]:
        """Where this work has run, last of all where it did so last."""
        known = self._works.get(fingerprint)
        return [] if known is None else list(known.windows)

    def shared(self, instance: Hashable) -> list[SharedWork]:
        """The last works here that ran elsewhere too, and how long they take where.

        Those that ran ENOUGH_RUNS times here and there; if there are none, those with fewer runs,
        if they are more than ENOUGH_RUNS: one first run is one of many then.
        """
        proven: list[SharedWork] = []
        few: list[SharedWork] = []
        for one in self._works.shared(instance):
            here, others = one.windows[instance], one.shown(apart=instance).values()
            is_proven = here.proven and all(window.proven for window in others)
            (proven if is_proven else few).append((here.value, one.times(apart=instance)))
        return proven or (few if len(few) > ENOUGH_RUNS else [])

    def export(self, key: Callable[[Any], str], now: float) -> dict[str, Any]:
        """All that is known, as plain data; ages in seconds at ``now``."""
        recent = {key(where): window.export(now) for where, window in self._recent.items()}
        return {"works": self._works.export(key, now), "recent": recent}

    def restore(
        self, data: Mapping[str, Any], instance: Callable[[str], Hashable | None], now: float
    ) -> None:
        """Add what :meth:`export` told of instances that still exist."""
        self._works.restore(data["works"], instance, now)
        for key, samples in data["recent"].items():
            where = instance(key)
            if samples and self._works.knows(where):
                self._recent.setdefault(where, Window(_RECENT, fmean)).restore(samples, now)
        self._inferred.clear()

    def _infer(self, question: tuple[str, ...], answer: Callable[[], float | None]) -> float | None:
        """``answer()``, asked once for all instances until something is learned.

        It is for an instance of average speed, so that it holds for each of them.
        """
        if self._revision != self._speeds.revision or len(self._inferred) >= MAX_FINGERPRINTS:
            self._inferred.clear()
            self._revision = self._speeds.revision
        if question not in self._inferred:
            self._inferred[question] = answer()
        return self._inferred[question]

    def _of_work(self, instance: Hashable, known: KnownWork) -> float:
        """Seconds of a work that has run, here or elsewhere."""
        window = known.windows.get(instance)
        if window is not None and (window.proven or not known.is_proven):
            return window.value
        base = self._infer(("same", known.fingerprint), lambda: self._speeds.base_s(known.times()))
        elsewhere_s = (base or 0.0) * self._speeds.speed(instance)
        return elsewhere_s if window is None else min(window.value, elsewhere_s)

    def _of_kind(self, work: Costed) -> float | None:
        effort = log_effort(work)
        known = self._works.nearest(work.kind, effort)
        if known is None:
            return None
        return self._speeds.base_s(known.times()) * ratio(effort, known.log_effort, _KIND_LIMIT)

    def _of_models(self, work: Costed) -> float | None:
        """A median, because works of different kinds are not nearer for having a like effort."""
        effort = log_effort(work)
        alike = self._works.with_models(work.models) if work.models else ()
        seconds = [
            self._speeds.base_s(one.times()) * ratio(effort, one.log_effort, _MODELS_LIMIT)
            for one in alike
        ]
        return median(seconds) if seconds else None

    def _mean_elsewhere(self) -> float | None:
        recent = {where: one for where, one in self._recent.items() if one.proven} or self._recent
        means = [one.value / self._speeds.speed(where) for where, one in recent.items()]
        return fmean(means) if means else None
