"""Clients' prompts in the file, as long as they live: written as the ledger tells of them.

A prompt is written, with its body, before it is sent to an instance, and again with what came of
that, and when a client deletes it. Its progress is not written: ComfyUI tells that again. A prompt
that has ended is deleted: it is in the history of its instance, which is read next
(``unread_ends.py``).
"""

from __future__ import annotations

import uuid
from typing import Final

from comfy_proxy.ledger import events
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.state import prompt_record
from comfy_proxy.state.store import StateStore

PROMPT: Final = "prompt"
BODY: Final = "prompt-body"
_TOLD: Final = (
    events.Sent,
    events.Refused,
    events.Accepted,
    events.Deleted,
    events.DeletionUndone,
    events.TakenAway,
    events.Stayed,
    events.Lost,
    events.RanOutOfMemory,
    events.BeginsAnew,
)


class PromptState:
    """An observer of the ledger. The key of a prompt in the file is not its id, which several
    prompts may have."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._keys: dict[Prompt, str] = {}

    def observe(self, change: Change) -> None:
        """Write the prompt of ``change``, or delete it if it has ended."""
        prompt = change.prompt
        if change.is_end:
            self.forget(self._keys.pop(prompt, None))
        elif isinstance(change.event, _TOLD) and not prompt.ended:
            self._write(prompt)

    def known(self, prompt: Prompt, key: str) -> None:
        """``prompt`` is in the file under that key since an earlier process."""
        self._keys[prompt] = key

    def forget(self, key: str | None) -> None:
        """Delete the prompt under that key, if there is one."""
        if key is not None:
            self._store.delete(PROMPT, key)
            self._store.delete(BODY, key)

    async def clear(self) -> None:
        """Delete all prompts in the file."""
        for key, _ in await self._store.entries(PROMPT):
            self.forget(key)

    def _write(self, prompt: Prompt) -> None:
        if prompt.post is None or prompt.job is not None:
            return
        key = self._keys.get(prompt)
        if key is None:  # its body is in memory: it was received just now
            key = self._keys[prompt] = uuid.uuid4().hex
            self._store.put(BODY, key, prompt.post.body)
        self._store.put(PROMPT, key, prompt_record.written(prompt, prompt.post))
