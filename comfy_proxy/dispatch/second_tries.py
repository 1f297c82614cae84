"""Whether a client's prompt that ran out of memory has ended, or runs once more.

It does with RETRY_OUT_OF_MEMORY, once in its life. Then neither the event nor the entry of the
history that tell of its first try are for clients: they would take the prompt for over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_outcomes import node_error
from comfy_proxy.errors import ComfyProxyError, GpuMemoryError
from comfy_proxy.ledger import events
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.ledger.states import State


class SecondTries:
    """Keeps nothing: all that it knows is in the ledger."""

    def __init__(self, ledger: Ledger, *, enabled: bool) -> None:
        self._ledger = ledger
        self.enabled = enabled

    @classmethod
    def of(cls, cluster: Cluster, ledger: Ledger) -> SecondTries:
        return cls(ledger, enabled=cluster.settings.retry_out_of_memory)

    def goes_on(self, prompt_id: str, instance: Instance, error: ComfyProxyError | None) -> bool:
        """True if ``error``, with which ``instance`` ended that prompt, is not its end.

        Whoever hears of it first, by a frame or in the history, has it booked here.
        """
        if not self.enabled or not isinstance(error, GpuMemoryError):
            return False
        prompt = self._ledger.find(prompt_id)
        if prompt is None or prompt.post is None:
            return False
        if not prompt.at(instance):
            return any(one.out_of_memory and one.instance is instance for one in prompt.attempts)
        if prompt.deleted or prompt.state not in (State.QUEUED, State.RUNNING):
            return False
        return self._book(prompt, instance, error)

    def job_goes_on(self, job: Mapping[str, Any], instance: Instance) -> bool:
        """As :meth:`goes_on`, by what ``instance`` tells of it as a job (``/api/jobs``)."""
        prompt_id, error = job.get("id"), job.get("execution_error")
        if not isinstance(prompt_id, str) or not isinstance(error, Mapping):
            return False
        return self.goes_on(prompt_id, instance, node_error(error))

    def _book(self, prompt: Prompt, instance: Instance, error: GpuMemoryError) -> bool:
        if any(one.out_of_memory for one in prompt.attempts):
            return False
        self._ledger.apply(events.RanOutOfMemory(prompt=prompt))
        with prompt.context():
            logger.bind(instance=instance.host, exception=error.node_traceback).warning(
                "prompt {} runs once more: {}", prompt.prompt_id, error.message
            )
        return True
