"""What has to be known of a work in order to learn its costs."""

from __future__ import annotations

from math import exp, inf, log
from typing import Protocol


class Costed(Protocol):
    """A work as costs see it; two of one fingerprint are the same to them."""

    @property
    def kind(self) -> str:
        """Works of one kind differ in their size only."""
        ...

    @property
    def fingerprint(self) -> str:
        """The kind, and what drives the time: steps, size, …"""
        ...

    @property
    def models(self) -> tuple[str, ...]:
        """The model files it names, sorted."""
        ...

    @property
    def effort(self) -> float:
        """The product of what drives the time; only ratios within a kind mean something."""
        ...


def log_effort(work: Costed) -> float:
    """The logarithm of its effort; that of 1.0 for an effort that is none, like 0 or NaN."""
    return log(work.effort) if 0 < work.effort < inf else 0.0


def ratio(effort: float, other: float, limit: float) -> float:
    """How much more the first of two logarithms of efforts is, at most ``limit`` either way."""
    return exp(min(max(effort - other, -log(limit)), log(limit)))
