"""What the parts of the proxy tell their observers: a frozen record of each thing that is over.

An ``instance`` is a ``host:port``; durations (``…_s``) are in seconds. The records that each
forwarded request makes are named tuples: to make one takes a third of the time of a frozen
dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from comfy_proxy.request_path import normal_path

OURS = "ours"
"""The policy of requests that we answer ourselves."""
_FAULT = 500


class Verdict(StrEnum):
    """How one exchange with an instance ended, as far as the instance is to blame."""

    OK = "ok"
    INSTANCE_FAULT = "instance_fault"
    CLIENT_GONE = "client_gone"


class Attempt(NamedTuple):
    """One exchange with an instance; ``kind`` is its sort, like ``ws``, ``error`` why it failed."""

    instance: str
    kind: str
    duration_s: float
    verdict: Verdict
    error: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelUse:
    """A prompt with models has run at ``instance``; ``loaded`` if they had to be loaded for it,
    which took about ``load_s``."""

    instance: str
    loaded: bool
    load_s: float


class Outcome(StrEnum):
    """How a job, or a client's prompt, ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class WebhookOutcome(StrEnum):
    """How a webhook ended: taken by its receiver; refused by it for good; tried for hours in vain;
    or not sent because too many were on their way, or the proxy stopped."""

    DELIVERED = "delivered"
    REFUSED = "refused"
    EXPIRED = "expired"
    DROPPED = "dropped"


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRecord:
    """A job that has ended.

    ``waiting_s`` is from its acceptance until ComfyUI began with it, ``processing_s`` from there to
    its end; both are None if ComfyUI never began. ``code`` and ``message`` say why it failed.
    ``instance`` is where it ended, None if it had no place at an instance. ``told_s`` are the
    seconds to its end that it was told at its acceptance, None if they were not known.
    """

    id: str
    type: str
    outcome: Outcome
    instance: str | None
    attempts: int
    waiting_s: float | None
    processing_s: float | None
    code: str | None = None
    message: str | None = None
    told_s: float | None = None


class PromptEvent(StrEnum):
    """What happened to a prompt on its way to an instance."""

    FORWARDED = "forwarded"
    """``instance`` has taken a client's prompt."""
    MOVED = "moved"
    """A prompt that waited elsewhere waits at ``instance`` now."""
    PASSED_OVER = "passed_over"
    """``instance`` could not take a client's prompt; the next one was asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptRecord:
    """A prompt was forwarded or moved, or an instance passed over.

    ``job_type`` is that of one of our jobs, None for a client's own prompt. ``prompt_id`` is None
    where the prompt was forwarded unread (a single instance).
    """

    event: PromptEvent
    instance: str
    prompt_id: str | None
    job_type: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptEnd:
    """A client's prompt that has ended; fields as in :class:`JobRecord`.

    Seconds are None also where the frames and the history did not tell them. ``worked`` is False if
    all results came from ComfyUI's cache: its time says nothing of the next prompt's.
    """

    prompt_id: str
    outcome: Outcome
    instance: str
    waiting_s: float | None
    processing_s: float | None
    worked: bool = True
    code: str | None = None
    message: str | None = None


class RequestRecord(NamedTuple):
    """One request that was answered.

    ``path`` is as it came, without the query (which may hold a key). ``duration_s`` is to the end
    of the answer, ``first_byte_s`` to its beginning, None if the client left before. Bytes are
    those of the bodies, or of the frames of a WebSocket. ``status`` is 499 if the client left
    before its answer began or ended. ``client`` is an address. ``reason`` says why we answered with
    an error.
    """

    method: str
    path: str
    policy: str
    status: int
    duration_s: float
    first_byte_s: float | None
    received_bytes: int
    sent_bytes: int
    user_agent: str | None
    client: str | None
    instance: str | None
    request_id: str
    reason: str | None = None

    @property
    def is_fault(self) -> bool:
        """True for a 5xx, except the 503 of ``/health``: that one reports an outage correctly."""
        return self.status >= _FAULT and not (
            self.policy == OURS and normal_path(self.path).startswith("/health")
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CircuitRecord:
    """The circuit of ``instance`` went from one state to another."""

    instance: str
    old: str
    new: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolWait:
    """How long a job waited for a pooled WebSocket to ``instance``; 0 if one was free."""

    instance: str
    duration_s: float
