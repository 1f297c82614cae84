"""How many clients' prompts may wait, and when those that are refused are to come back."""

from __future__ import annotations

from typing import Final

from comfy_proxy.admission import UNKNOWN_S, Promises, Throughput
from comfy_proxy.clock import Clock
from comfy_proxy.errors import QueueFullError
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.prompt import Prompt

MAX_PROMPTS: Final = 10_000
"""Clients' prompts that have not ended, at all instances. One more is refused with 503."""


class PromptAdmission:
    """Lets in :data:`MAX_PROMPTS` prompts, and bodies of ``max_bytes`` in sum (MAX_SPOOL_SIZE).

    ``Retry-After`` is made of the rate at which prompts have ended. An observer of the ledger.
    """

    def __init__(self, clock: Clock, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._sizes: dict[Prompt, int] = {}
        self._bytes = 0
        self._promises = Promises(clock)
        self._throughput = Throughput(clock)

    def __repr__(self) -> str:
        return f"<PromptAdmission {len(self._sizes)} prompts, {self._bytes} bytes>"

    def require(self, client: str, size: int) -> None:
        """Raises QueueFullError if there is no room for one more of ``size`` bytes now."""
        kept = 0.0 if self._promises.is_due(client) else self._promises.reserved()
        full = len(self._sizes) + min(kept, MAX_PROMPTS // 2) >= MAX_PROMPTS
        if not full and not (self._bytes and self._bytes + size > self._max_bytes):
            self._promises.keep(client)
            return
        interval_s = self._throughput.interval_s() or UNKNOWN_S
        retry_s = self._promises.told_s(client, interval_s, interval_s)
        message = f"{len(self._sizes)} prompts of {self._bytes} bytes are waiting already."
        raise QueueFullError(message, retry_after_s=retry_s)

    def observe(self, change: Change) -> None:
        """What has become of a prompt."""
        prompt = change.prompt
        if prompt.post is not None and change.is_acceptance and prompt not in self._sizes:
            self._sizes[prompt] = len(prompt.post.body)
            self._bytes += self._sizes[prompt]
        elif change.is_end and prompt in self._sizes:
            self._bytes -= self._sizes.pop(prompt)
            self._throughput.left()
            if not self._sizes:
                self._throughput.idle()
