"""How long jobs take, as measured: the ground of every estimate a client is shown."""

from __future__ import annotations

from collections import deque
from statistics import fmean

_REMEMBERED = 100


class Estimates:
    """Mean execution times by job type, from the last hundred of each; seconds."""

    def __init__(self) -> None:
        self._executions: dict[str, deque[float]] = {}

    def record(self, job_type: str, execution_s: float) -> None:
        """One execution, from ComfyUI's ``execution_start`` to its end."""
        self._executions.setdefault(job_type, deque(maxlen=_REMEMBERED)).append(execution_s)

    def mean(self, job_type: str) -> float | None:
        """Of that type; of all types while it was never measured; None before any job ran."""
        samples = self._executions.get(job_type)
        if samples:
            return fmean(samples)
        everything = [value for deque_ in self._executions.values() for value in deque_]
        return fmean(everything) if everything else None
