"""Which new jobs may join those that wait, and when the others are to come back."""

from __future__ import annotations

from collections import Counter
from typing import Final

from comfy_proxy.admission import UNKNOWN_S, Promises, Throughput
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import QueueFullError
from comfy_proxy.jobs.model import Job, JobStatus
from comfy_proxy.jobs.requests.input_file import FEW_BYTES, MEMORY_BYTES, SUM_BYTES
from comfy_proxy.jobs.requests.job_request import JobRequest

EXTRA: Final = 10
"""A tenth of MAX_PENDING_JOBS may wait beyond it, of clients that have few jobs here: one that has
filled the queue must not keep the others out."""
FEW: Final = 50
"""A client has few jobs here while fewer than a fiftieth of MAX_PENDING_JOBS of its own wait."""

KEPT: Final = 4
"""A quarter of the places at most is kept for those who were told to come back."""


class JobAdmission:
    """At most ``max_jobs`` jobs wait (MAX_PENDING_JOBS), and a tenth more of clients with few; the
    files of all unfinished ones have at most ``max_bytes`` (MAX_SPOOL_SIZE). Beyond,
    QueueFullError, whose Retry-After is made of the rate at which jobs have left the queue.

    A place that has become free is kept, for a moment, for one who was told to come back for it;
    not more than a quarter of all places are (none where there are fewer than four).
    """

    def __init__(self, cluster: Cluster, *, max_jobs: int, max_bytes: int) -> None:
        self.max_jobs = max_jobs
        self._max_bytes = max_bytes
        self._cluster = cluster
        self._waiting: dict[Job, None] = {}
        self._by_client: Counter[str] = Counter()
        self._sizes: dict[Job, tuple[int, int]] = {}  # in all, in memory
        self._bytes = 0
        self._in_memory = 0
        self._promises = Promises(cluster.clock)
        self._throughput = Throughput(cluster.clock)

    def __repr__(self) -> str:
        return f"<JobAdmission {len(self._waiting)} waiting, {self._bytes} bytes>"

    def require(self, request: JobRequest, idempotency_key: str | None) -> None:
        """Raises QueueFullError if there is no room for a job of ``request`` now."""
        who = (request.client, idempotency_key or request.fingerprint)
        limit = self._limit_of(request.client)
        kept = 0.0
        if not self._promises.is_due(who):
            kept = min(self._promises.reserved(), self.max_jobs // KEPT)
        full = len(self._waiting) + kept >= limit
        too_large = self._bytes and self._bytes + request.size > self._max_bytes
        if not full and not too_large:
            self._promises.keep(who)
            return
        retry_s = self._promises.told_s(
            who, self._first_s(), self._interval_s(), known=idempotency_key is not None
        )
        if full:
            message = f"{self.max_jobs} jobs are waiting already."
        else:
            message = f"The files of the jobs that wait have {self._max_bytes} bytes already."
        raise QueueFullError(message, retry_after_s=retry_s)

    def memory_bytes(self) -> int:
        """Up to which size each file of the next job may be kept in memory."""
        return MEMORY_BYTES if self._in_memory < SUM_BYTES else FEW_BYTES

    def joined(self, job: Job) -> None:
        """``job`` was made of a request that was let in."""
        self._sizes[job] = job.request.size, job.request.in_memory
        self._count_bytes(job, 1)
        self._add(job)

    def observe(self, job: Job) -> None:
        """For ``manager.on_changed``."""
        if job not in self._sizes:
            return
        if job.status is JobStatus.PENDING:
            self._add(job)
        elif job in self._waiting:
            self._remove(job)
        if job.finished:
            self._count_bytes(job, -1)
            del self._sizes[job]

    def _count_bytes(self, job: Job, sign: int) -> None:
        size, in_memory = self._sizes[job]
        self._bytes += sign * size
        self._in_memory += sign * in_memory

    def _add(self, job: Job) -> None:
        if job not in self._waiting:
            self._waiting[job] = None
            self._by_client[job.request.client] += 1

    def _remove(self, job: Job) -> None:
        del self._waiting[job]
        client = job.request.client
        self._by_client[client] -= 1
        if not self._by_client[client]:
            del self._by_client[client]
        self._throughput.left()
        if not self._waiting:
            self._throughput.idle()

    def _limit_of(self, client: str) -> int:
        few = self._by_client[client] < self.max_jobs // FEW
        return self.max_jobs + self.max_jobs // EXTRA if few else self.max_jobs

    def _first_s(self) -> float:
        """Seconds until the next job leaves the queue."""
        ends = [self._cluster.planner.free_in_s(one) for one in self._instances()]
        return min((end for end in ends if end > 0), default=self._interval_s())

    def _interval_s(self) -> float:
        """Seconds from one job that leaves the queue to the next."""
        measured = self._throughput.interval_s()
        if measured is not None:
            return measured
        means = [self._cluster.planner.costs.mean_run_s(one) for one in self._instances()]
        rate = sum(1 / mean for mean in means if mean)
        return 1 / rate if rate else UNKNOWN_S

    def _instances(self) -> list[Instance]:
        return [one for one in self._cluster.instances if one.healthy]
