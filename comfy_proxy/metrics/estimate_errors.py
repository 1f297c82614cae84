"""How far the seconds that jobs were told at their acceptance were from the true ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from math import ceil
from typing import Final

from comfy_proxy.metrics.records import JobRecord, Outcome

REMEMBERED: Final = 200
"""Jobs of each type of which the figures are made; the oldest is forgotten for one more."""
SHORT_S: Final = 0.5
"""Seconds. A job that is done sooner says nothing of an estimate: nobody plans by it."""
QUANTILES: Final = {"median": 0.5, "p90": 0.9}


class EstimateErrors:
    """``|told - true| / true`` of completed jobs, by type: 0.1 is a tenth too much or too little.

    Jobs that were told nothing are left out, and those that failed or were cancelled.
    """

    def __init__(self) -> None:
        self._errors: dict[str, deque[float]] = {}

    def record(self, job: JobRecord) -> None:
        """Note a job that has ended."""
        told_s, waiting_s, processing_s = job.told_s, job.waiting_s, job.processing_s
        if job.outcome is not Outcome.COMPLETED or None in (told_s, waiting_s, processing_s):
            return
        true_s = (waiting_s or 0.0) + (processing_s or 0.0)
        if true_s >= SHORT_S:
            errors = self._errors.setdefault(job.type, deque(maxlen=REMEMBERED))
            errors.append(abs((told_s or 0.0) - true_s) / true_s)

    def as_json(self, job_type: str | None = None) -> dict[str, float | int | None]:
        """Of one type, None for all: how many count, and the fractions."""
        types = self._errors if job_type is None else (job_type,)
        errors = sorted(error for name in types for error in self._errors.get(name, ()))
        shares = {name: _quantile(errors, share) for name, share in QUANTILES.items()}
        return {"count": len(errors), **shares}

    def quantiles(self) -> Iterator[tuple[tuple[str, str], float]]:
        """Type and quantile, from 0 to 1, with the fraction."""
        for name, errors in self._errors.items():
            ordered = sorted(errors)
            for share in QUANTILES.values():
                if (error := _quantile(ordered, share)) is not None:
                    yield (name, str(share)), error


def _quantile(ordered: list[float], share: float) -> float | None:
    """The least that ``share`` of them do not exceed; None if there are none."""
    if not ordered:
        return None
    return round(ordered[max(0, ceil(len(ordered) * share) - 1)], 6)
