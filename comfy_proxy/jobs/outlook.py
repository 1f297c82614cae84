"""Where the unfinished jobs stand at one moment: their places in the queue and the time left.

Made once for a whole listing: a thousand waiting jobs cost one walk through the queue.
"""

from __future__ import annotations

from functools import cached_property

from comfy_proxy.jobs.model import Job
from comfy_proxy.jobs.service import JobService


class Outlook:
    """Use it at once and throw it away. Seconds are None before any job was measured."""

    def __init__(self, service: JobService) -> None:
        self._processor = service.processor
        self._now = service.clock.monotonic()
        healthy = sum(instance.healthy for instance in service.cluster.instances)
        self._instances = max(healthy, 1)
        self._means: dict[str, float | None] = {}

    def queue_position(self, job: Job) -> int | None:
        """1 for the pending job that is next; None for one that does not wait."""
        place = self._waiting.get(job)
        return place[0] if place else None

    def remaining_s(self, job: Job) -> float | None:
        """Until the job is done, from measured durations."""
        if job in self._running:
            return self._running[job]
        place = self._waiting.get(job)
        return place[1] if place else None

    def _mean(self, job_type: str) -> float | None:
        if job_type not in self._means:
            self._means[job_type] = self._processor.estimates.mean(job_type)
        return self._means[job_type]

    @cached_property
    def _running(self) -> dict[Job, float | None]:
        """An instance executes one prompt at a time: those queued there wait for it."""
        left: dict[Job, float | None] = {}
        ahead_s: dict[str | None, float] = {}
        for job in sorted(self._processor.running, key=lambda job: job.executing_since is None):
            own_s = self._mean(job.type)
            if own_s is not None:
                if job.executing_since is not None:
                    own_s = max(0.0, own_s - (self._now - job.executing_since))
                own_s = ahead_s[job.instance] = ahead_s.get(job.instance, 0.0) + own_s
            left[job] = own_s
        self._backlog_s = sum(ahead_s.values())
        return left

    @cached_property
    def _waiting(self) -> dict[Job, tuple[int, float | None]]:
        _ = self._running
        ahead_s = self._backlog_s
        places: dict[Job, tuple[int, float | None]] = {}
        for position, job in enumerate(self._processor.waiting, start=1):
            own_s = self._mean(job.type)
            left_s = None if own_s is None else ahead_s / self._instances + own_s
            places[job] = position, left_s
            ahead_s += own_s or 0.0
        return places
