"""A metric family, and how one is made of figures; which there are is in ``families.py``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from comfy_proxy.metrics.durations import Histogram
from comfy_proxy.metrics.gone import GONE

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

Labels = tuple[str, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family.

    ``values`` are pairs: the values of ``labels``, in that order, and the figure. A counter's
    ``name`` is without its ``_total``, which the writer adds.
    """

    kind: str
    name: str
    help: str
    labels: Labels
    values: tuple[tuple[Labels, float | Histogram], ...]

    @property
    def unit(self) -> str:
        """As OpenMetrics names it; "" for a number without one."""
        return "seconds" if self.name.endswith("_seconds") else ""


def one(values: Mapping[str, T]) -> list[tuple[Labels, T]]:
    """``values`` for a family with one label."""
    return [((label,), value) for label, value in values.items()]


def counter(name: str, text: str, labels: str, values: Iterable[tuple[Labels, float]]) -> Family:
    """``labels`` are names with blanks between them, ``text`` is the help."""
    told = tuple(one for one in values if GONE not in one[0])
    return Family(COUNTER, f"comfy_proxy_{name}", text, tuple(labels.split()), told)


def gauge(name: str, text: str, labels: str, values: Iterable[tuple[Labels, float]]) -> Family:
    """As :func:`counter`."""
    numbers = tuple((key, float(value)) for key, value in values)  # True would be written "True"
    return Family(GAUGE, f"comfy_proxy_{name}", text, tuple(labels.split()), numbers)


def histogram(
    name: str, text: str, labels: str, values: Iterable[tuple[Labels, Histogram]]
) -> Family:
    """As :func:`counter`."""
    told = tuple(one for one in values if GONE not in one[0])
    return Family(HISTOGRAM, f"comfy_proxy_{name}", text, tuple(labels.split()), told)
