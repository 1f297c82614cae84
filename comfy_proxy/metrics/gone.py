"""Figures of instances that have left: no longer told one by one, and in the sums for ever."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

GONE: Final = "(removed)"
"""Stands for the ``host:port`` of all instances that have left. It is told in no list of instances
and to no Prometheus: there a figure that came to it would look like work done at that moment."""


def fold(counts: Counter[Any], host: str) -> None:
    """Of a counter by tuples that end with a host: what was counted of ``host`` is of GONE now."""
    for key in [key for key in counts if key[-1] == host]:
        counts[*key[:-1], GONE] += counts.pop(key)


def drop(figures: dict[Any, Any], host: str) -> None:
    """Of figures by ``host``, or by tuples with it in any place: those go."""
    for key in [key for key in figures if key == host or (isinstance(key, tuple) and host in key)]:
        del figures[key]
