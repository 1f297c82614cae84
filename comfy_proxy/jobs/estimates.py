"""How long jobs and clients' prompts take, as measured: the ground of every estimate."""

from __future__ import annotations

from collections import deque
from statistics import fmean

_REMEMBERED = 100


class Estimates:
    """Mean execution times by job type, from the last hundred of each; seconds."""

    def __init__(self) -> None:
        self._executions: dict[str | None, deque[float]] = {}

    def record(self, job_type: str | None, execution_s: float) -> None:
        """One execution, from ComfyUI's ``execution_start`` to its end; None: of a client's own
        prompt."""
        self._executions.setdefault(job_type, deque(maxlen=_REMEMBERED)).append(execution_s)

    def mean(self, job_type: str | None) -> float | None:
        """Of that type; None while it was never measured."""
        samples = self._executions.get(job_type)
        return fmean(samples) if samples else None

    def mean_of_jobs(self) -> float | None:
        """Of jobs of all types; None before any job was measured."""
        everything = [
            value
            for job_type, samples in self._executions.items()
            for value in samples
            if job_type is not None
        ]
        return fmean(everything) if everything else None
