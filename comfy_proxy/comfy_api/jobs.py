"""The jobs of the Comfy API: what is remembered of each, and of how many."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from comfy_proxy.clock import Clock, wait_for_event
from comfy_proxy.cluster.comfyui_frames import PictureFrame
from comfy_proxy.comfy_api.outputs import MAX_OF_JOB, Output
from comfy_proxy.comfy_api.progress import JobProgress
from comfy_proxy.observers import tell

RETENTION: Final = timedelta(hours=24)
"""How long a job is known, from its submission; one that has not ended by then until it ends. As
long its outputs can be fetched by their ids, and as long its Idempotency-Key gives it."""
MAX_ENDED: Final = 10_000
"""Jobs that have ended and are known; beyond them the one that ended first is forgotten. How many
wait is bounded by ``prompt_admission.py``."""
MAX_OUTPUTS: Final = 100_000
"""Outputs of all jobs that have ended; beyond them the jobs that ended first are forgotten."""


class JobStatus(StrEnum):
    """The contract's ``JobStatus``. EXPIRED: what became of the job is known nowhere any more."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    CANCELING = "canceling"
    CANCELED = "canceled"
    FAILED = "failed"
    EXPIRED = "expired"

    @property
    def is_end(self) -> bool:
        """No other status follows it."""
        return self in (self.SUCCEEDED, self.CANCELED, self.FAILED, self.EXPIRED)


@dataclass(kw_only=True, eq=False)
class Job:
    """One job; its id is that of its prompt.

    ``number`` grows from one job to the next; the book gives it. ``owner`` is who may see it,
    ``key`` its Idempotency-Key, ``fingerprint`` a hash of its request. ``runs``: an instance has
    told that it began. ``cancelled``: its client has asked that it end. ``end`` is its last
    status, None before. ``reused``: some results came from ComfyUI's cache. ``accepted``: an
    instance has taken it; before that nobody sees it. ``progress`` is None when it has ended:
    ``last_progress`` is what it was then.
    ``frames`` counts those that told of its progress, or showed a preview.
    """

    id: str
    owner: str
    created: datetime
    number: int = 0
    metadata: str | Mapping[str, str] | None = None
    priority: int | None = None
    key: str | None = None
    fingerprint: str = ""
    progress: JobProgress | None = None
    last_progress: Mapping[str, Any] | None = None
    accepted: bool = False
    runs: bool = False
    cancelled: bool = False
    started: datetime | None = None
    completed: datetime | None = None
    end: JobStatus | None = None
    error: Mapping[str, Any] | None = None
    outputs: dict[str, Output] = field(default_factory=dict)
    reused: bool = False
    preview: PictureFrame | None = None
    watchers: int = 0
    frames: int = 0
    version: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    @property
    def status(self) -> JobStatus:
        """What a client is told now: its end, else that it is being cancelled, else where it is."""
        if self.end is not None:
            return self.end
        if self.cancelled:
            return JobStatus.CANCELING
        return JobStatus.RUNNING if self.runs else JobStatus.QUEUED

    def follow(self, nodes: Mapping[str, str] | None) -> None:
        """Its graph has these nodes, with these classes; None if that is not known any more."""
        self.progress = None if nodes is None or self.end is not None else JobProgress(nodes)

    @property
    def expires(self) -> datetime:
        """When it is forgotten, if it has ended by then (UTC)."""
        return self.created + RETENTION

    def changed(self) -> None:
        """Tell those who watch that there is news."""
        self.version += 1
        if self.watchers:
            self._news.set()
            self._news = asyncio.Event()

    async def wait_for_news(self, seen: int, clock: Clock, timeout_s: float) -> None:
        """Return when its version is another one than ``seen``, or after ``timeout_s``; for those
        who are counted in ``watchers``."""
        if self.version == seen:
            await wait_for_event(clock, self._news, timeout_s)


class JobBook:
    """Jobs by id, newest last. ``on_changed`` callbacks hear a job whose record has changed for
    good, ``on_forgotten`` one that is known no more."""

    def __init__(
        self, clock: Clock, *, max_ended: int = MAX_ENDED, max_outputs: int = MAX_OUTPUTS
    ) -> None:
        self._clock = clock
        self._max_ended = max_ended
        self._max_outputs = max_outputs
        self._jobs: dict[str, Job] = {}
        self._ended: OrderedDict[str, int] = OrderedDict()
        self._outputs: dict[str, str] = {}
        self._kept_outputs = 0
        self._watched: set[Job] = set()
        self._last = 0
        self.on_changed: list[Callable[[Job], None]] = []
        self.on_forgotten: list[Callable[[Job], None]] = []

    def __repr__(self) -> str:
        return f"<JobBook {len(self._jobs)} jobs, {self._kept_outputs} outputs>"

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        """Newest first."""
        return reversed(tuple(self._jobs.values()))

    def add(self, job: Job) -> None:
        """A new one, or one of before this process."""
        new = max(self._last + 1, int(job.created.timestamp() * 1_000_000))
        job.number = job.number or new
        self._last = max(self._last, job.number)
        self._jobs[job.id] = job
        if job.end is not None:
            self._note_end(job)
        tell(self.on_changed, job)
        self._trim()

    def rename(self, job: Job, job_id: str) -> None:
        """Its instance gave its prompt another id, before anybody was told of it."""
        self._jobs.pop(job.id, None)
        job.id = job_id
        self._jobs[job_id] = job
        tell(self.on_changed, job)

    def forget(self, job: Job) -> None:
        """No instance took it, or it is too old."""
        self._jobs.pop(job.id, None)
        self._kept_outputs -= self._ended.pop(job.id, 0)
        for output_id in job.outputs:
            self._outputs.pop(output_id, None)
        tell(self.on_forgotten, job)

    def find(self, job_id: str) -> Job | None:
        """The job of that id, whoever's it is."""
        self._trim()
        return self._jobs.get(job_id)

    def of_output(self, output_id: str) -> Job | None:
        """The job that has that output."""
        job_id = self._outputs.get(output_id)
        return None if job_id is None else self.find(job_id)

    def note_outputs(self, job: Job, outputs: Iterable[Output]) -> None:
        """These are outputs of ``job``, in their order; beyond MAX_OF_JOB none is added."""
        for output in outputs:
            if output.id not in job.outputs and len(job.outputs) >= MAX_OF_JOB:
                continue
            job.outputs[output.id] = output
            self._outputs[output.id] = job.id

    def drop_outputs(self, job: Job) -> None:
        """What ``job``, which has not ended, has made so far is none of its outputs."""
        for output_id in job.outputs:
            self._outputs.pop(output_id, None)
        job.outputs.clear()

    @contextmanager
    def watched(self, job: Job) -> Iterator[None]:
        """Somebody listens to ``job`` inside the block: previews are kept, and news are told."""
        job.watchers += 1
        self._watched.add(job)
        try:
            yield
        finally:
            job.watchers -= 1
            if not job.watchers:
                job.preview = None
                self._watched.discard(job)

    def queue_changed(self) -> None:
        """Those that wait may have another place now."""
        for job in self._watched:
            if not job.runs and job.end is None:
                job.changed()

    def ended(self, job: Job) -> None:
        """``job`` has its last status."""
        job.preview = None
        self._note_end(job)
        job.changed()
        tell(self.on_changed, job)
        self._trim()

    def _note_end(self, job: Job) -> None:
        self._ended[job.id] = len(job.outputs)
        self._kept_outputs += len(job.outputs)
        for output_id in job.outputs:
            self._outputs[output_id] = job.id

    def _trim(self) -> None:
        now = self._clock.now()
        while self._ended:
            oldest = self._jobs[next(iter(self._ended))]
            too_many = len(self._ended) > self._max_ended or self._kept_outputs > self._max_outputs
            if not (too_many and len(self._ended) > 1) and oldest.expires > now:
                return
            self.forget(oldest)
