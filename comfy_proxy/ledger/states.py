"""The life of a prompt, in one table.

::

    received ──▶ submitting ──▶ queued ──▶ running ──▶ ended
        ▲            │  ▲          │          │          ▲
        └── refused ─┘  │          ▼          │          │
                        └─────── moving ◀─────┘          │
                                   └──── from each of them

From ``received`` to ``moving`` goes what takes the place of a prompt whose results were lost before
anybody was told of them. Any other step is illegal: it raises, and nothing has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from comfy_proxy.errors import ComfyProxyError


class State(StrEnum):
    """Where a prompt is between the request that brought it and its end."""

    RECEIVED = "received"
    """We have it whole; no instance was sent it, or those that were have refused it."""
    SUBMITTING = "submitting"
    """One instance is being sent it and has not answered."""
    QUEUED = "queued"
    """An instance has taken it; as far as is known it waits there."""
    RUNNING = "running"
    """An event of that instance has told that it runs."""
    MOVING = "moving"
    """It was accepted, and is on its way to an instance: taken out of another one's queue (or just
    about to be), lost with another one's process, or out of memory there."""
    ENDED = "ended"
    """It is over; how, :class:`Ending` says."""


class Ending(StrEnum):
    """How a prompt ended."""

    SUCCESS = "success"
    ERROR = "error"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    """A client of ours deleted it before it ran."""
    LOST = "lost"
    """No instance has it and none will get it; its error says why."""
    REJECTED = "rejected"
    """No instance took it; the answer to its own request said so."""
    REPLACED = "replaced"
    """A newer prompt was accepted under its id. ComfyUI runs both, but no answer and no event
    tells which of the two it is about (PROTOCOL.md trap 9), so only the newer one is followed.
    What the older one's instance tells of it still goes to its client
    (``gateway/events/replaced_prompts.py``)."""
    VANISHED = "vanished"
    """Its instance never failed, runs others, and has it neither in its queue nor in its history:
    somebody deleted it there who did not come through us."""


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.RECEIVED: frozenset({State.SUBMITTING, State.MOVING, State.ENDED}),
    State.SUBMITTING: frozenset(
        {State.RECEIVED, State.QUEUED, State.RUNNING, State.MOVING, State.ENDED}
    ),
    State.QUEUED: frozenset({State.RUNNING, State.MOVING, State.ENDED}),
    State.RUNNING: frozenset({State.MOVING, State.ENDED}),
    State.MOVING: frozenset({State.SUBMITTING, State.QUEUED, State.RUNNING, State.ENDED}),
    State.ENDED: frozenset(),
}


class IllegalTransitionError(ComfyProxyError):
    """A prompt was to go where its state does not lead: a fault of ours, never of a client."""

    code = "illegal_transition"
