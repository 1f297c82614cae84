"""What is told of clients' prompts to metrics and log: where each went, how it ended, its cost."""

from __future__ import annotations

from collections.abc import Mapping

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.retry_law import PromptVanishedError
from comfy_proxy.errors import ComfyProxyError, WorkflowError
from comfy_proxy.ledger import events
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.prompt import End, Prompt
from comfy_proxy.ledger.states import Ending
from comfy_proxy.metrics.durations import rounded
from comfy_proxy.metrics.records import Outcome, PromptEnd, PromptEvent
from comfy_proxy.observers import tell

OUTCOMES: Mapping[Ending, Outcome] = {
    Ending.SUCCESS: Outcome.COMPLETED,
    Ending.ERROR: Outcome.FAILED,
    Ending.LOST: Outcome.FAILED,
    Ending.INTERRUPTED: Outcome.CANCELLED,
    Ending.CANCELLED: Outcome.CANCELLED,
}
"""What is counted. Other endings are not: a prompt that was rejected never was one, and of one that
was replaced or has vanished nobody knows how it ends."""


class PromptReports:
    """An observer of the ledger, which tells those of ``cluster``."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def observe(self, change: Change) -> None:
        """Hear of a change; prompts of our own jobs are told of by the jobs."""
        prompt = change.prompt
        if prompt.job is not None:
            return
        if change.is_acceptance:
            self._accepted(prompt)
        end = prompt.end
        if not change.is_end or end is None or isinstance(end.error, PromptVanishedError):
            return
        if end.ending in OUTCOMES:
            self._ended(prompt, end, change)

    def _accepted(self, prompt: Prompt) -> None:
        places = [one.instance for one in prompt.attempts if one.accepted_at is not None]
        *before, instance = places
        if not before:
            self._cluster.tell_prompt(PromptEvent.FORWARDED, instance, prompt.prompt_id)
            text = "prompt {} forwarded to {}"
            logger.bind(prompt_id=prompt.prompt_id, instance=instance.host).info(
                text, prompt.prompt_id, instance.host
            )
            return
        if before[-1] is not instance:
            self._cluster.tell_prompt(PromptEvent.MOVED, instance, prompt.prompt_id)
        with prompt.context():
            logger.bind(instance=instance.host).info(
                "prompt {} moved from {} to {}", prompt.prompt_id, before[-1].host, instance.host
            )

    def _ended(self, prompt: Prompt, end: End, change: Change) -> None:
        waiting_s, execution_s = self._costs(prompt, end, change)
        error = end.error
        told = PromptEnd(
            prompt_id=prompt.prompt_id,
            outcome=OUTCOMES[end.ending],
            instance=prompt.instance.host if prompt.instance is not None else "",
            waiting_s=waiting_s,
            processing_s=execution_s,
            worked=end.worked,
            code=error.code if error is not None else None,
            message=error.message if error is not None else None,
        )
        tell(self._cluster.on_prompt_end, told)
        _log(prompt, told, error)

    def _costs(self, prompt: Prompt, end: End, change: Change) -> tuple[float | None, float | None]:
        """Seconds that it waited and that it ran; None where nobody can say.

        By our own clock if its frames were heard, else by what ``/history`` says of its instance's
        clock, which may be wrong: no wait is longer than the time since its acceptance.
        """
        accepted_at, attempt = prompt.accepted_at, prompt.attempt
        if accepted_at is None or attempt is None:
            return None, None
        now = self._cluster.clock.monotonic()
        if not isinstance(change.event, events.Finished):
            if attempt.began_at is None:
                return None, None
            return max(0.0, attempt.began_at - accepted_at), now - attempt.began_at
        if end.execution_s is None or end.began_time is None:
            return None, end.execution_s
        most_s = max(0.0, now - accepted_at - end.execution_s)
        waited_s = max(0.0, end.began_time - (prompt.accepted_time or 0.0))
        return min(waited_s, most_s), end.execution_s


def _log(prompt: Prompt, end: PromptEnd, error: ComfyProxyError | None) -> None:
    """As with jobs: what it cost, and why it failed."""
    level, message = "INFO", str(end.outcome)
    if error is not None:
        level, message = "ERROR", f"failed: {error.code}: {error.message}"
    with prompt.context():
        logger.bind(
            instance=end.instance,
            waiting_seconds=rounded(end.waiting_s),
            processing_seconds=rounded(end.processing_s),
            exception=error.node_traceback if isinstance(error, WorkflowError) else None,
        ).log(level, "prompt {} {}", prompt.prompt_id, message)
