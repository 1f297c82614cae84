"""What is counted of jobs: in all, for each type, for each instance."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from comfy_proxy.errors import (
    ComfyProxyError,
    DrainingError,
    InstanceError,
    JobCancelledError,
    JobError,
    NoHealthyInstanceError,
    WorkflowUnavailableError,
)
from comfy_proxy.metrics.durations import DURATION_BOUNDS_S, Durations, Histogram
from comfy_proxy.metrics.estimate_errors import EstimateErrors
from comfy_proxy.metrics.gone import GONE, drop, fold
from comfy_proxy.metrics.labels import Bounded
from comfy_proxy.metrics.records import JobRecord, Outcome

MAX_CODES = 64
"""Error codes that are told apart; those that come later are counted as ``other``."""


def _codes(*families: type[ComfyProxyError]) -> set[str]:
    return {family.code for family in families}.union(
        *(_codes(*family.__subclasses__()) for family in families)
    )


JOB_ERROR_CODES = sorted(
    _codes(InstanceError, JobError, NoHealthyInstanceError, WorkflowUnavailableError, DrainingError)
    - {JobCancelledError.code}
    | {ComfyProxyError.code}
)
"""Every code that a failed job can have."""


class JobDurations:
    """One kind of duration, of all jobs and by type and instance."""

    def __init__(self) -> None:
        self.all = Durations()
        self.by_type: defaultdict[str, Durations] = defaultdict(Durations)
        self.by_instance: defaultdict[str, Durations] = defaultdict(Durations)

    def record(self, job: JobRecord, duration_s: float) -> None:
        self.all.record(duration_s)
        self.by_type[job.type].record(duration_s)
        if job.instance is not None:
            self.by_instance[job.instance].record(duration_s)


class JobFigures:
    """Counts since the start. ``finished`` is by type, outcome and instance (``""``: it had none).

    Processing times are those of completed jobs only: a job that failed at once tells nothing of
    how long a picture takes. Waiting times are those of all jobs that ComfyUI began.
    """

    def __init__(self, types: Iterable[str], hosts: Iterable[str]) -> None:
        self.accepted: Counter[str] = Counter()
        self.finished: Counter[tuple[str, Outcome, str]] = Counter()
        self.errors: Counter[tuple[str, str]] = Counter()
        self.retries: Counter[str] = Counter()
        self.moves: Counter[str] = Counter()
        self.processing, self.waiting = JobDurations(), JobDurations()
        self.estimate_errors = EstimateErrors()
        self.duration_histograms: defaultdict[tuple[str, str], Histogram] = defaultdict(
            partial(Histogram, DURATION_BOUNDS_S)
        )
        self.wait_histograms: defaultdict[str, Histogram] = defaultdict(
            partial(Histogram, DURATION_BOUNDS_S)
        )
        self._code = Bounded(MAX_CODES)
        self._hosts: dict[str, None] = {"": None}
        # A counter that begins at nought shows its first event as a rise.
        for name in types:
            self.accepted[name] = self.retries[name] = self.moves[name] = 0
            self.finished.update({(name, end, ""): 0 for end in Outcome})
            self.errors.update({(name, code): 0 for code in map(self._code, JOB_ERROR_CODES)})
        for host in hosts:
            self.join(host)

    def join(self, host: str) -> None:
        """Count there from now on; a second time does nothing."""
        if host not in self._hosts:
            self._hosts[host] = None
            self.finished.update(
                {(name, end, host): 0 for name in self.accepted for end in Outcome}
            )

    def leave(self, host: str) -> None:
        """What was counted there is in the sums alone."""
        self._hosts.pop(host, None)
        fold(self.finished, host)
        for figures in (
            *(self.duration_histograms, self.processing.by_instance),
            self.waiting.by_instance,
        ):
            drop(figures, host)

    def record(self, job: JobRecord) -> str | None:
        """Count a job that has ended; returns the label of its error, None unless it failed."""
        if job.instance is not None and job.instance not in self._hosts:
            job = replace(job, instance=GONE)
        self.finished[job.type, job.outcome, job.instance or ""] += 1
        self.retries[job.type] += max(0, job.attempts - 1)
        self.estimate_errors.record(job)
        if job.waiting_s is not None:
            self.waiting.record(job, job.waiting_s)
            self.wait_histograms[job.type].record(job.waiting_s)
        if job.processing_s is not None and job.outcome is Outcome.COMPLETED:
            self.processing.record(job, job.processing_s)
            self.duration_histograms[job.type, job.instance or ""].record(job.processing_s)
        if job.outcome is not Outcome.FAILED:
            return None
        code = self._code(job.code or "unknown")
        self.errors[job.type, code] += 1
        return code

    def outcomes(self, type: str | None = None) -> dict[str, int]:  # noqa: A002
        """How many jobs ended with each outcome: of all, or of one ``type``."""
        result = {str(outcome): 0 for outcome in Outcome}
        for (job_type, outcome, _), count in self.finished.items():
            if type in (None, job_type):
                result[outcome] += count
        return result

    def outcomes_at(self, host: str) -> dict[str, int]:
        """How many jobs ended at one instance with each outcome."""
        return {
            str(end): sum(self.finished[name, end, host] for name in self.accepted)
            for end in Outcome
        }

    def errors_by_code(self, type: str | None = None) -> Counter[str]:  # noqa: A002
        result: Counter[str] = Counter()
        for (job_type, code), count in self.errors.items():
            if count and type in (None, job_type):
                result[code] += count
        return result

    def totals(self) -> dict[str, Any]:
        """The JSON of all jobs: counts, rates from 0 to 1, durations in seconds."""
        return {
            **_summary(self.accepted.total(), self.outcomes()),
            "retries": self.retries.total(),
            "moves": self.moves.total(),
            "processing_time": self.processing.all.as_json(),
            "waiting_time": self.waiting.all.as_json(),
            "estimate_error": self.estimate_errors.as_json(),
        }

    def of_type(self, job_type: str) -> dict[str, Any]:
        """The JSON of one type."""
        return {
            **_summary(self.accepted[job_type], self.outcomes(job_type)),
            "retries": self.retries[job_type],
            "moves": self.moves[job_type],
            "errors_by_kind": dict(self.errors_by_code(job_type)),
            "processing_time": _json(self.processing.by_type, job_type),
            "waiting_time": _json(self.waiting.by_type, job_type),
            "estimate_error": self.estimate_errors.as_json(job_type),
        }

    def at_instance(self, host: str) -> dict[str, Any]:
        """The JSON of the jobs that ended at one instance."""
        outcomes = self.outcomes_at(host)
        return {
            "processed": outcomes["completed"] + outcomes["failed"],
            **outcomes,
            "success_rate": success_rate(outcomes["completed"], outcomes["failed"]),
            "processing_time": _json(self.processing.by_instance, host),
            "waiting_time": _json(self.waiting.by_instance, host),
        }


def success_rate(completed: int, failed: int) -> float | None:
    """The share of completed jobs, 0 to 1, among those not cancelled; None if there were none."""
    return round(completed / (completed + failed), 6) if completed + failed else None


def error_rate(completed: int, failed: int) -> float | None:
    """As :func:`success_rate`, the share of failed ones."""
    return round(failed / (completed + failed), 6) if completed + failed else None


def _summary(accepted: int, outcomes: Mapping[str, int]) -> dict[str, Any]:
    completed, failed = outcomes["completed"], outcomes["failed"]
    return {
        "total": accepted,
        "processed": completed + failed,
        **outcomes,
        "success_rate": success_rate(completed, failed),
    }


def _json(durations: Mapping[str, Durations], key: str) -> dict[str, Any]:
    return durations.get(key, _NONE).as_json()


_NONE = Durations()
