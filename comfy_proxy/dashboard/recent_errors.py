"""The last things that went wrong, in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy_proxy.clock import Clock, iso
from comfy_proxy.metrics.records import (
    OURS,
    CircuitRecord,
    JobRecord,
    Outcome,
    PromptEnd,
    RequestRecord,
)

MAX_ERRORS = 30
"""Errors that are kept; for one more the oldest is forgotten."""
MAX_TEXT = 500
"""Characters of a message; a longer one is cut. A node's may be a whole stack trace, and all
messages are part of each snapshot."""
_INTERNAL_ERROR = 500


class RecentErrors:
    """The last failures; equal ones are one entry, the newest, with their number.

    ``on_change`` callbacks are called after each failure.
    """

    def __init__(self, clock: Clock) -> None:
        self.on_change: list[Callable[[], None]] = []
        self._clock = clock
        self._errors: dict[tuple[str, str | None, str], dict[str, Any]] = {}  # the newest is last

    def job_ended(self, job: JobRecord) -> None:
        if job.outcome is Outcome.FAILED:
            message = shortened(job.message or "", MAX_TEXT - 100)
            self._add(
                job.code or "internal_error", job.instance, f"{message} (job {job.id})", message
            )

    def prompt_ended(self, prompt: PromptEnd) -> None:
        """A prompt of one of ComfyUI's own clients has ended."""
        if prompt.outcome is Outcome.FAILED:
            message = shortened(prompt.message or "", MAX_TEXT - 100)
            text = f"{message} (prompt {prompt.prompt_id})"
            self._add(prompt.code or "internal_error", prompt.instance, text, message)

    def circuit_changed(self, change: CircuitRecord) -> None:
        """A circuit has changed. Only closed → open counts: each failed trial opens it again."""
        if change.new == "open" and change.old == "closed":
            self._add("circuit_open", change.instance, change.reason, change.reason)

    def request_answered(self, request: RequestRecord) -> None:
        """A request was answered; 5xx are kept, one entry for a status, method and instance.

        That entry has the newest path: paths are too many to be told apart.
        """
        if not request.is_fault:
            return
        if request.policy == OURS and request.status != _INTERNAL_ERROR:
            return  # a synchronous job that failed: `job_ended` has told it
        code = f"http_{request.status}"
        message = f"{request.method} {request.path} was answered with {request.status}"
        if request.reason is not None:
            message += f": {request.reason.partition(': ')[2]}"
        self._add(code, request.instance, message, request.method)

    def newest_first(self) -> list[dict[str, Any]]:
        """``time``, ``code``, ``where`` (an instance or None), ``message``, ``count`` of each."""
        return list(reversed(self._errors.values()))

    def _add(self, code: str, where: str | None, message: str, alike: str) -> None:
        key = (code, where, alike)
        before = self._errors.pop(key, None)
        self._errors[key] = {
            "time": iso(self._clock.now()),
            "code": code,
            "where": where,
            "message": shortened(message),
            "count": before["count"] + 1 if before else 1,
        }
        if len(self._errors) > MAX_ERRORS:
            del self._errors[next(iter(self._errors))]
        for callback in self.on_change:
            callback()


def shortened(text: str, length: int = MAX_TEXT) -> str:
    """``text``, cut to ``length`` characters with a ``…`` at the end if it is longer."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
