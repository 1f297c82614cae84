"""How long it takes to load each model at each instance.

Pure: no I/O; a sample brings its time along.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from itertools import islice
from math import inf
from statistics import median
from typing import Any

from comfy_proxy.cluster.planning.samples import Window
from comfy_proxy.cluster.planning.speeds import Speeds

MAX_MODELS = 20_000
"""How many pairs of a model and an instance are remembered; for one more, the one goes that has
not been loaded for longest."""
LORA_WEIGHT = 0.05
"""What part of another model's load a LoRA counts as, by its name, where no size is known."""

_SAMPLES = 9
"""Loads of a model at an instance of which the median is made."""
_LOOKED_AT = 200
"""How many of the last pairs are looked at where the load of a model must be inferred."""

Size = Callable[[Any, str], int | None]
"""The bytes of a model at an instance, None if not known."""


class LoadTimes:
    """Median seconds by model and instance, of the last _SAMPLES loads each."""

    def __init__(self, speeds: Speeds, size: Size) -> None:
        self._speeds = speeds
        self._size = size
        self._at: dict[Hashable, dict[str, Window]] = {}
        self._models: dict[str, dict[Hashable, Window]] = {}
        self._order: OrderedDict[tuple[Hashable, str], Window] = OrderedDict()
        self._rates: dict[Hashable, tuple[float | None, float]] = {}
        self._all: tuple[float | None, float] | None = None

    def add(
        self, instance: Hashable, shares: Mapping[str, float], seconds: float, at: float
    ) -> bool:
        """Note a load of ``seconds`` in all; returns if an answer is new or changed materially."""
        material = False
        for model, share in shares.items():
            material |= self._window(instance, model).add(seconds * share, at)
        return material

    def here(self, instance: Hashable) -> dict[str, Window]:
        """What was measured at this instance, by model."""
        return self._at.get(instance, {})

    def known(self, instance: Hashable, model: str) -> float | None:
        """Seconds as measured here, else elsewhere."""
        window = self.here(instance).get(model)
        if window is not None:
            return window.value
        others = self._models.get(model)
        if not others:
            return None
        speed = self._speeds.speed
        base = median(one.value / speed(where) for where, one in others.items())
        return base * speed(instance)

    def inferred(self, instance: Hashable, model: str) -> float | None:
        """Seconds by what other models take a byte, else by what they take; None without any."""
        if not self._order:
            return None
        a_byte, a_model = self._rate_here(instance)
        if self._all is None:
            newest = islice(reversed(self._order.items()), _LOOKED_AT)
            self._all = self._rate((key, one, self._speeds.speed(key[0])) for key, one in newest)
        if a_byte is None and self._all[0] is not None:
            a_byte = self._all[0] * self._speeds.speed(instance)
        size = self._bytes(instance, model)
        if size is not None and a_byte is not None:
            return size * a_byte
        if not self.here(instance):
            a_model = self._all[1] * self._speeds.speed(instance)
        return a_model * weight(model)

    def export(self, key: Callable[[Any], str], now: float) -> list[list[Any]]:
        """``[instance, model, samples]`` each, the one loaded last at the end."""
        return [
            [key(where), model, window.export(now)]
            for (where, model), window in self._order.items()
        ]

    def restore(
        self, data: list[list[Any]], instance: Callable[[str], Hashable | None], now: float
    ) -> None:
        """Add what :meth:`export` told of instances that still exist."""
        for key, model, samples in data:
            if samples and (where := instance(key)) is not None:
                self._window(where, model).restore(samples, now)

    def _window(self, instance: Hashable, model: str) -> Window:
        """The window of this pair, which is the one that came last now."""
        self._rates.pop(instance, None)
        self._all = None
        window = self._order.get((instance, model))
        if window is None:
            window = self._order[instance, model] = Window(_SAMPLES)
            self._at.setdefault(instance, {})[model] = window
            self._models.setdefault(model, {})[instance] = window
        self._order.move_to_end((instance, model))
        if len(self._order) > MAX_MODELS:
            (where, gone), _ = self._order.popitem(last=False)
            self._rates.pop(where, None)
            del self._at[where][gone], self._models[gone][where]
            if not self._at[where]:
                del self._at[where]
            if not self._models[gone]:
                del self._models[gone]
        return window

    def _rate_here(self, instance: Hashable) -> tuple[float | None, float]:
        """Seconds a byte and seconds a model at this instance."""
        if instance not in self._rates:
            newest = islice(reversed(self.here(instance).items()), _LOOKED_AT)
            self._rates[instance] = self._rate(
                ((instance, model), window, 1.0) for model, window in newest
            )
        return self._rates[instance]

    def _rate(
        self, loads: Iterator[tuple[tuple[Hashable, str], Window, float]]
    ) -> tuple[float | None, float]:
        """Median seconds a byte, and seconds a model of weight 1.0, each at average speed."""
        a_byte: list[float] = []
        seconds = weights = 0.0
        for (instance, model), window, speed in loads:
            seconds += window.value / speed
            weights += weight(model)
            size = self._bytes(instance, model)
            if size is not None:
                a_byte.append(window.value / speed / size)
        return (median(a_byte) if a_byte else None, seconds / weights if weights else 0.0)

    def _bytes(self, instance: Hashable, model: str) -> int | None:
        size = self._size(instance, model)
        return size if size is not None and size > 0 else None


def weight(model: str) -> float:
    """How much of a load to expect of a model of which only the name is known."""
    return LORA_WEIGHT if "lora" in model.lower() else 1.0


def shares(loaded: Mapping[str, float] | Collection[str]) -> dict[str, float]:
    """The part of one load that each model of it is due; 1.0 in all.

    By the weights that a mapping brings, which may be of any scale. Equal parts where there are
    none, or none that mean something.
    """
    if isinstance(loaded, Mapping):
        weights = {one: float(part) for one, part in loaded.items() if 0 < part < inf}
        total = sum(weights.values())
        if 0 < total < inf:
            return {one: weights.get(one, 0.0) / total for one in loaded}
    return {one: 1 / len(set(loaded)) for one in loaded}
