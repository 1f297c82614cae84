"""The unfinished jobs at one moment: their positions in the queue and the seconds left.

Made once for a whole listing: a thousand waiting jobs cost one walk through the queue. Seconds are
computed from measured durations and from what ComfyUI reports. They are None, rather than a guess,
before a job's type was measured, while no instance is healthy, and for a job that takes longer than
the others did and reports no progress.
"""

from __future__ import annotations

import heapq
from functools import cached_property

from comfy_proxy.jobs.model import Job
from comfy_proxy.jobs.service import JobService


class QueueForecast:
    """Valid at the moment it is made: use it before the next await and throw it away."""

    def __init__(self, service: JobService) -> None:
        self._processor = service.processor
        self._now = service.clock.monotonic()
        self._healthy = {one.host: one for one in service.cluster.instances if one.healthy}
        self._means: dict[str | None, float | None] = {}

    def queue_position(self, job: Job) -> int | None:
        """1 for the pending job that is next; None for a job that does not wait."""
        place = self._waiting.get(job)
        return place[0] if place else None

    def remaining_s(self, job: Job) -> float | None:
        """Seconds until the job is done; None if they are not known (see the module)."""
        at_instances, _ = self._at_instances
        if job in at_instances:
            return at_instances[job]
        place = self._waiting.get(job)
        return place[1] if place else None

    def _mean(self, job_type: str | None) -> float | None:
        if job_type not in self._means:
            self._means[job_type] = self._processor.estimates.mean(job_type)
        return self._means[job_type]

    def _cost_s(self, job_type: str | None) -> float:
        """Seconds for which a job keeps an instance busy, for the jobs behind it.

        Of a type that was never measured the mean of all jobs, or 0 before there is one.
        """
        return self._mean(job_type) or self._mean_of_jobs or 0.0

    @cached_property
    def _mean_of_jobs(self) -> float | None:
        return self._processor.estimates.mean_of_jobs()

    @cached_property
    def _at_instances(self) -> tuple[dict[Job, float | None], dict[str, float]]:
        """Seconds left of each job that has a place, and until each healthy instance is free.

        An instance executes one prompt at a time, so jobs in its queue wait for all before them.
        Clients' prompts there are counted as a mean one each. The executing job comes first.
        """
        prompt_s = self._cost_s(None)
        free_in_s = {host: one.prompts.of_clients * prompt_s for host, one in self._healthy.items()}
        left: dict[Job, float | None] = {}
        for job in sorted(self._processor.running, key=lambda job: job.executing_since is None):
            if job.instance not in free_in_s:
                left[job] = None
            elif job.executing_since is None:
                free_in_s[job.instance] += self._cost_s(job.type)
                known = self._mean(job.type) is not None
                left[job] = free_in_s[job.instance] if known else None
            else:
                left[job] = self._of_executing(job, self._now - job.executing_since)
                free_in_s[job.instance] += left[job] or 0.0
        return left, free_in_s

    def _of_executing(self, job: Job, elapsed_s: float) -> float | None:
        """Seconds left of an executing job: by the mean of its type, or by its own progress if it
        takes longer than that or there is none."""
        mean_s = self._mean(job.type)
        if mean_s is not None and mean_s > elapsed_s:
            return mean_s - elapsed_s
        if 0.0 < job.percentage < 100.0:
            return elapsed_s * (100.0 - job.percentage) / job.percentage
        return None

    @cached_property
    def _waiting(self) -> dict[Job, tuple[int, float | None]]:
        """Position and seconds left of each waiting job; it gets the instance free first."""
        free = [(seconds, host) for host, seconds in self._at_instances[1].items()]
        heapq.heapify(free)
        places: dict[Job, tuple[int, float | None]] = {}
        for position, job in enumerate(self._processor.waiting, start=1):
            left_s = None
            if free:
                free_in_s, host = free[0]
                heapq.heapreplace(free, (free_in_s + self._cost_s(job.type), host))
                if (own_s := self._mean(job.type)) is not None:
                    left_s = free_in_s + own_s
            places[job] = position, left_s
        return places
