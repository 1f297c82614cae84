"""All figures of an application, and the one door for each record that changes them.

Their memory does not grow: counters by label, histograms, the last thousand durations of a kind,
the last sixty minutes. Recording takes microseconds. ``stats.py`` and ``families.py`` read them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from comfy_proxy.clock import Clock
from comfy_proxy.metrics.durations import Histogram
from comfy_proxy.metrics.http_figures import HttpFigures
from comfy_proxy.metrics.instance_figures import InstanceFigures
from comfy_proxy.metrics.job_figures import JobFigures
from comfy_proxy.metrics.last_hour import LastHour
from comfy_proxy.metrics.live import LiveState, LogCounts
from comfy_proxy.metrics.load_figures import LoadFigures
from comfy_proxy.metrics.prompt_figures import PromptFigures
from comfy_proxy.metrics.records import (
    Attempt,
    CircuitRecord,
    JobRecord,
    Outcome,
    PoolWait,
    PromptEnd,
    PromptEvent,
    PromptRecord,
    RequestRecord,
)
from comfy_proxy.metrics.webhook_figures import WebhookFigures


class Figures:
    """What has been counted since the start, and where the state of this moment is asked for.

    ``instances`` are the ``host:port`` and ``job_types`` the workflows for which counters begin at
    0. ``live`` gives the state of the application when somebody asks. ``logs`` is None until the
    application has logs; ``loop_lags`` until its event loop is watched.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        instances: Iterable[str],
        job_types: Iterable[str],
        live: Callable[[], LiveState],
    ) -> None:
        self.clock = clock
        self.started_at = clock.now()
        self.live = live
        self.logs: LogCounts | None = None
        self.loop_lags: Histogram | None = None
        self.instances = InstanceFigures(instances)
        self.prompts = PromptFigures(self.instances.hosts)
        self.jobs = JobFigures(job_types, self.instances.hosts)
        self.http = HttpFigures()
        self.loads = LoadFigures(self.instances.hosts)
        self.webhooks = WebhookFigures()
        self.last_hour = LastHour(clock)

    def __repr__(self) -> str:
        name, requests = type(self).__name__, self.http.requests.total()
        return f"<{name} jobs={self.jobs.outcomes()} requests={requests}>"

    def join(self, host: str) -> None:
        """An instance has joined: counters of it begin at 0. A second time does nothing."""
        for figures in (self.instances, self.prompts, self.jobs, self.loads):
            figures.join(host)

    def leave(self, host: str) -> None:
        """It has left: it is told no more, and what was done there is in the sums."""
        for figures in (self.instances, self.prompts, self.jobs, self.loads):
            figures.leave(host)

    # --- records -------------------------------------------------------------------------

    def record_accepted_job(self, job_type: str) -> None:
        """A job was accepted."""
        self.jobs.accepted[job_type] += 1

    def record_job(self, job: JobRecord) -> None:
        """A job has ended."""
        code = self.jobs.record(job)
        minute = self.last_hour.current
        if job.outcome is Outcome.COMPLETED:
            minute.completed += 1
            if job.processing_s is not None:
                minute.processed += 1
                minute.processing_s += job.processing_s
        elif job.outcome is Outcome.FAILED:
            minute.failed += 1
        else:
            minute.cancelled += 1
        if code is not None:
            minute.errors[code] += 1
        if job.waiting_s is not None:
            minute.waited += 1
            minute.waiting_s += job.waiting_s

    def record_prompt(self, prompt: PromptRecord) -> None:
        """A prompt was forwarded or moved, or an instance passed over.

        Of our jobs' prompts only moves are counted: the rest is counted with the jobs.
        """
        if prompt.job_type is not None:
            if prompt.event is PromptEvent.MOVED:
                self.jobs.moves[prompt.job_type] += 1
            return
        self.prompts.record(prompt)
        if prompt.event is PromptEvent.FORWARDED:
            self.last_hour.current.prompts += 1

    def record_prompt_end(self, end: PromptEnd) -> None:
        """A client's prompt has ended."""
        self.prompts.record_end(end)
        self.last_hour.current.prompts_completed += end.outcome is Outcome.COMPLETED
        self.last_hour.current.prompts_failed += end.outcome is Outcome.FAILED

    def record_request(self, request: RequestRecord) -> None:
        """A request was answered."""
        self.http.record(request)
        minute = self.last_hour.current
        minute.requests += 1
        minute.faults += request.is_fault

    def record_attempt(self, attempt: Attempt) -> None:
        """One exchange with an instance is over."""
        self.instances.record_attempt(attempt)

    def record_circuit(self, change: CircuitRecord) -> None:
        """A circuit breaker changed its state."""
        self.instances.record_circuit(change)

    def record_pool_wait(self, wait: PoolWait) -> None:
        """A job has got a connection to an instance."""
        self.instances.record_pool_wait(wait)
