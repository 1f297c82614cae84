"""How long jobs and clients' prompts took: every estimate is made of these measured times."""

from __future__ import annotations

from collections import deque
from statistics import fmean

from comfy_proxy.metrics.records import Outcome, PromptEnd

_REMEMBERED = 100
"""Executions of each type of which the mean is made; the oldest is forgotten for one more."""


class Estimates:
    """Mean execution times by job type in seconds, from the last _REMEMBERED of each."""

    def __init__(self) -> None:
        self._executions: dict[str | None, deque[float]] = {}

    def record(self, job_type: str | None, execution_s: float) -> None:
        """Note one execution, from ComfyUI's ``execution_start`` to its end.

        ``job_type`` None is a client's own prompt.
        """
        self._executions.setdefault(job_type, deque(maxlen=_REMEMBERED)).append(execution_s)

    def learn_from(self, prompt: PromptEnd) -> None:
        """Note how long a client's prompt took: estimates count those in front of a job.

        One that came from ComfyUI's cache tells nothing of the next one.
        """
        seconds = prompt.processing_s
        if prompt.outcome is Outcome.COMPLETED and prompt.worked and seconds is not None:
            self.record(None, seconds)

    def mean(self, job_type: str | None) -> float | None:
        """The mean of ``job_type`` in seconds; None before one was measured."""
        samples = self._executions.get(job_type)
        return fmean(samples) if samples else None

    def mean_of_jobs(self) -> float | None:
        """The mean of all jobs, clients' prompts left out; None before one was measured."""
        everything = [
            value
            for job_type, samples in self._executions.items()
            for value in samples
            if job_type is not None
        ]
        return fmean(everything) if everything else None
