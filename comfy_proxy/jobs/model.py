"""A job: what was asked, how far it is, how it ended.

pending ──▶ processing ──▶ completed
   │  ◀────────┘   │
   └──────────────▶└─────▶ failed

A job whose instance failed under it goes back to pending. Any other change is illegal: it raises
and nothing has happened.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from comfy_proxy.clock import Clock, wait_for_event
from comfy_proxy.cluster.comfyui_frames import PictureFrame
from comfy_proxy.cluster.planning.decision import Decision
from comfy_proxy.errors import ComfyProxyError, DrainingError
from comfy_proxy.jobs.requests.job_request import JobRequest
from comfy_proxy.jobs.results.result_file import Results
from comfy_proxy.jobs.workflows.parameter import Scalar
from comfy_proxy.tracing import TRACE, Trace


class JobStatus(StrEnum):
    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.PENDING: frozenset({JobStatus.PROCESSING, JobStatus.FAILED}),
    JobStatus.PROCESSING: frozenset({JobStatus.PENDING, JobStatus.COMPLETED, JobStatus.FAILED}),
    JobStatus.COMPLETED: frozenset(),
    JobStatus.FAILED: frozenset(),
}


class IllegalTransitionError(ComfyProxyError):
    """A fault of ours: a job was to get a status that cannot follow its own (TRANSITIONS)."""

    code = "illegal_transition"


@dataclass(frozen=True, kw_only=True, slots=True)
class JobFailure:
    """Why a job failed; ``status`` is the HTTP status for a client that waits for the result."""

    code: str
    message: str
    status: int


@dataclass(kw_only=True, eq=False)
class Job:
    """One accepted request. Times are UTC, durations seconds; only JobManager changes it.

    * ``started_at``: its current attempt got a place at an instance, in whose queue it may wait.
    * ``executing_since``: ComfyUI began with it.
    * ``waiting_time_s``: from its making to ``executing_since``; ``execution_time_s``: from there
      to its end. Both are set at its end, and stay None if ComfyUI never began.
    * ``processing_time_s``: from ``started_at`` to its end.
    * ``told_s``: seconds to its end as they looked when it was accepted; None: not known then.
    * ``version`` grows with every change that a client can see; :meth:`wait_until` waits for one.
    * ``trace`` is that of the request which made it.
    * ``placement`` is why it is at its instance, None while it has no place.
    * ``variant`` is that of its workflow which it ran last, None before its first place.
    * ``results`` are None again when their memory was needed for newer ones.
    """

    type: str
    request: JobRequest = field(repr=False)
    created_at: datetime
    created_monotonic: float
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: JobStatus = JobStatus.PENDING
    updated_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    started_monotonic: float | None = None
    processing_time_s: float | None = None
    waiting_time_s: float | None = None
    execution_time_s: float | None = None
    told_s: float | None = None
    instance: str | None = None
    placement: Decision | None = field(default=None, repr=False)
    prompt_id: str | None = None
    executing_since: float | None = None  # monotonic; None while it waits at its instance
    attempts: int = 0
    percentage: float = 0.0
    current_node: str | None = None
    preview: PictureFrame | None = field(default=None, repr=False)
    variant: str | None = None
    results: Results | None = field(default=None, repr=False)
    error: JobFailure | None = None
    idempotency_key: str | None = None
    trace: Trace | None = field(default_factory=TRACE.get, repr=False)
    version: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    _suspended: bool = False

    @property
    def data(self) -> Mapping[str, Scalar]:
        """The parameters, as given and filled in."""
        return self.request.parameters

    @property
    def finished(self) -> bool:
        return not TRANSITIONS[self.status]

    def check_transition(self, new: JobStatus) -> None:
        if new not in TRANSITIONS[self.status]:
            raise IllegalTransitionError(f"A {self.status} job cannot become {new}.")

    def touch(self, now: datetime) -> None:
        """Something that a client can see has changed: raise the version, wake all who wait."""
        self.updated_at = now
        self.version += 1
        # Those who wait now hold this event; the next change has one of its own.
        self._changed.set()
        self._changed = asyncio.Event()

    def suspend(self) -> None:
        """The proxy stops; the job goes on after the next start. Whoever waits for it is told."""
        self._suspended = True
        self._changed.set()

    async def wait_until(
        self, condition: Callable[[Job], bool], clock: Clock, timeout_s: float | None = None
    ) -> bool:
        """True as soon as ``condition`` holds, False after ``timeout_s`` seconds (None: no limit).

        The condition is looked at again after each change of the job. Raises DrainingError once
        that is for a later process to see.
        """
        end = None if timeout_s is None else clock.monotonic() + timeout_s
        while not condition(self):
            if self._suspended:
                raise DrainingError(
                    "The proxy is stopping; the job goes on after its restart.", retry_after_s=5
                )
            changed = self._changed
            left_s = None if end is None else end - clock.monotonic()
            if left_s is not None and left_s <= 0:
                return False
            if not await wait_for_event(clock, changed, left_s):
                return condition(self)
        return True
