"""How long jobs take, as measured: the ground of every estimate a client is shown."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
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

    def completion_s(self, job_type: str, ahead: Iterable[str], instances: int) -> float | None:
        """Until a job is done that has the jobs ``ahead`` (their types) before it."""
        own = self.mean(job_type)
        if own is None:
            return None
        queue_s = sum(self.mean(other) or own for other in ahead)
        return own + queue_s / max(instances, 1)
