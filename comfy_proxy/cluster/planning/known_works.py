"""The works that have run, found by what they have in common: kind, models, instance.

Pure: no I/O; a sample brings its time along.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from statistics import median_low
from typing import Any, TypeVar

from comfy_proxy.cluster.planning.costed import Costed, log_effort
from comfy_proxy.cluster.planning.samples import ENOUGH_RUNS, Window

MAX_FINGERPRINTS = 2_000
"""How many works are remembered over all instances; for one more, the one goes that has not run
for longest."""
MAX_WINDOWS = 20_000
"""How many pairs of a work and an instance are remembered; beyond, works go in the same order."""
NEIGHBOURS = 10
"""How many works or instances are looked at where one must be inferred from others: those that
came last. More would make it slower and hardly better."""

_Key = TypeVar("_Key", bound=Hashable)

_SAMPLES = 15
"""Runs of a work at an instance of which the median is made, of an even number the lower one."""


@dataclass(slots=True)
class KnownWork:
    """A work that has run: its size, and its times by instance, where it ran last at the end."""

    fingerprint: str
    kind: str
    models: tuple[str, ...]
    effort: float
    log_effort: float = field(init=False)
    windows: dict[Hashable, Window] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.log_effort = log_effort(self)
        if self.log_effort == 0.0:
            self.effort = 1.0

    def shown(self, apart: Hashable = None) -> dict[Hashable, Window]:
        """Where it has run: the last NEIGHBOURS instances, without ``apart``; those with fewer
        than ENOUGH_RUNS runs only if there are no others."""
        others = (one for one in reversed(self.windows.items()) if one[0] != apart)
        last = dict(islice(others, NEIGHBOURS))
        return {where: window for where, window in last.items() if window.proven} or last

    def times(self, apart: Hashable = None) -> list[tuple[Hashable, float]]:
        """Where of :meth:`shown` it takes how long."""
        return [(where, window.value) for where, window in self.shown(apart).items()]

    @property
    def is_proven(self) -> bool:
        """Whether it ran ENOUGH_RUNS times at one of the NEIGHBOURS where it ran last."""
        return any(window.proven for window in islice(reversed(self.windows.values()), NEIGHBOURS))


class KnownWorks:
    """At most MAX_FINGERPRINTS works with at most MAX_WINDOWS windows of their times."""

    def __init__(self) -> None:
        self._works: OrderedDict[str, KnownWork] = OrderedDict()
        self._size = 0
        self._at: dict[Hashable, dict[str, KnownWork]] = {}
        self._kinds_at: dict[tuple[Hashable, str], dict[str, KnownWork]] = {}
        self._kinds: dict[str, dict[str, KnownWork]] = {}
        self._models: dict[tuple[str, ...], dict[str, KnownWork]] = {}

    @property
    def instances(self) -> int:
        """How many instances some work has run at."""
        return len(self._at)

    def get(self, fingerprint: str) -> KnownWork | None:
        """The work of exactly this fingerprint."""
        return self._works.get(fingerprint)

    def nearest_here(self, instance: Hashable, kind: str, effort: float) -> KnownWork | None:
        """The work of ``kind`` that ran at ``instance`` and is next to ``effort``, a logarithm."""
        return _nearest(self._kinds_at.get((instance, kind)), effort)

    def nearest(self, kind: str, effort: float) -> KnownWork | None:
        """The work of ``kind`` that is next to ``effort``, a logarithm, wherever it ran."""
        return _nearest(self._kinds.get(kind), effort)

    def with_models(self, models: tuple[str, ...]) -> Iterator[KnownWork]:
        """The NEIGHBOURS works with just these models that became known last."""
        return islice(reversed(self._models.get(models, {}).values()), NEIGHBOURS)

    def shared(self, instance: Hashable) -> Iterator[KnownWork]:
        """The NEIGHBOURS works that ran at ``instance`` last, of those that ran elsewhere too."""
        works = reversed(self._at.get(instance, {}).values())
        return islice((one for one in works if len(one.windows) > 1), NEIGHBOURS)

    def ran_enough(self, instance: Hashable, kind: str) -> bool:
        """If works of ``kind`` ran there ENOUGH_RUNS times, of whatever size."""
        runs = 0
        for one in self._kinds_at.get((instance, kind), {}).values():
            runs += len(one.windows[instance])
            if runs >= ENOUGH_RUNS:
                return True
        return False

    def knows(self, instance: Hashable) -> bool:
        """If a work that ran there is remembered."""
        return instance in self._at

    def window(self, instance: Hashable, work: Costed) -> Window:
        """Where to note a run of ``work`` at ``instance``: both are those that came last now."""
        known = self._works.get(work.fingerprint) or self._begin(work)
        self._works.move_to_end(known.fingerprint)
        here = self._at.setdefault(instance, {})
        here.pop(known.fingerprint, None)
        here[known.fingerprint] = known
        self._kinds_at.setdefault((instance, known.kind), {})[known.fingerprint] = known
        window = known.windows.pop(instance, None)
        if window is None:
            window = Window(_SAMPLES, median_low)
            self._size += 1
        known.windows[instance] = window
        while len(self._works) > 1 and (
            len(self._works) > MAX_FINGERPRINTS or self._size > MAX_WINDOWS
        ):
            self._forget_oldest()
        return window

    def export(self, key: Callable[[Any], str], now: float) -> list[dict[str, Any]]:
        """Every work and its samples as plain data, the one that ran last at the end."""
        return [
            {
                "fingerprint": one.fingerprint,
                "kind": one.kind,
                "models": list(one.models),
                "effort": one.effort,
                "at": {key(where): window.export(now) for where, window in one.windows.items()},
            }
            for one in self._works.values()
        ]

    def restore(
        self,
        data: list[Mapping[str, Any]],
        instance: Callable[[str], Hashable | None],
        now: float,
    ) -> None:
        """Add what :meth:`export` told of instances that still exist."""
        for one in data:
            models = tuple(str(model) for model in one["models"])
            work = KnownWork(one["fingerprint"], one["kind"], models, float(one["effort"]))
            for key, samples in one["at"].items():
                if samples and (where := instance(key)) is not None:
                    self.window(where, work).restore(samples, now)

    def _begin(self, work: Costed) -> KnownWork:
        known = KnownWork(work.fingerprint, work.kind, work.models, work.effort)
        self._works[known.fingerprint] = known
        self._kinds.setdefault(known.kind, {})[known.fingerprint] = known
        self._models.setdefault(known.models, {})[known.fingerprint] = known
        return known

    def _forget_oldest(self) -> None:
        fingerprint, known = self._works.popitem(last=False)
        self._size -= len(known.windows)
        _remove(self._kinds, known.kind, fingerprint)
        _remove(self._models, known.models, fingerprint)
        for instance in known.windows:
            _remove(self._kinds_at, (instance, known.kind), fingerprint)
            _remove(self._at, instance, fingerprint)


def _nearest(works: Mapping[str, KnownWork] | None, effort: float) -> KnownWork | None:
    if not works:
        return None
    return min(works.values(), key=lambda one: abs(one.log_effort - effort))


def _remove(index: dict[_Key, dict[str, KnownWork]], key: _Key, fingerprint: str) -> None:
    """Take one work out of an index, which keeps no empty places."""
    del index[key][fingerprint]
    if not index[key]:
        del index[key]
