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
MAX_TEXT = 500
"""Of a message, in characters: a node's may be a whole stack trace, and all are sent each time."""
_INTERNAL_ERROR = 500


class RecentErrors:
    """What was told of failures; of equal ones the newest, with their number.

    ``on_change`` callbacks hear of each.
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
        """Of one of ComfyUI's clients."""
        if prompt.outcome is Outcome.FAILED:
            message = shortened(prompt.message or "", MAX_TEXT - 100)
            text = f"{message} (prompt {prompt.prompt_id})"
            self._add(prompt.code or "internal_error", prompt.instance, text, message)

    def circuit_changed(self, change: CircuitRecord) -> None:
        """Each failed trial opens the circuit again: only the first opening is news."""
        if change.new == "open" and change.old == "closed":
            self._add("circuit_open", change.instance, change.reason, change.reason)

    def request_answered(self, request: RequestRecord) -> None:
        """Faults as ComfyUI's clients see them; those of one kind are one, with the newest path."""
        if not request.is_fault:
            return
        if request.policy == OURS and request.status != _INTERNAL_ERROR:
            return  # how a job ended, which is told by itself
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
    """``text``, or its beginning."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
