"""The prompts that were accepted and are at no instance just now. Only the ledger writes it.

A view of the whole asks all instances at once, and their answers are of different moments. A prompt
that moves meanwhile may be in none of them: gone from its old place when that was looked at, not
yet at its new place when that was (PROTOCOL.md trap 24). To look at the prompts in transit before
and after is not enough, because a move can begin and end in between: whoever asks watches instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.ledger.states import State

MAX_LOOKS = 3
"""How often a view asks all instances because a prompt that moved was seen nowhere; beyond that the
prompt is shown as waiting."""


class Transit:
    """In the order in which they left. Prompts of our own jobs are not among them: their clients
    ask for the job, and no view shows them while they move."""

    def __init__(self) -> None:
        self._prompts: dict[Prompt, None] = {}
        self._watches: dict[int, dict[str, Prompt]] = {}

    def __iter__(self) -> Iterator[Prompt]:
        return iter(tuple(self._prompts))

    def __len__(self) -> int:
        return len(self._prompts)

    def __contains__(self, prompt: object) -> bool:
        return prompt in self._prompts

    def find(self, prompt_id: str) -> Prompt | None:
        """The one of that id that left last."""
        found = None
        for prompt in self._prompts:
            if prompt.prompt_id == prompt_id:
                found = prompt
        return found

    @property
    def nowhere(self) -> int:
        """How many are not being sent to any instance."""
        return sum(prompt.state is State.MOVING for prompt in self._prompts)

    @contextmanager
    def watch(self) -> Iterator[dict[str, Prompt]]:
        """A dict that comes to hold, by id, whatever is in transit at any time inside the block."""
        seen = {prompt.prompt_id: prompt for prompt in self._prompts}
        self._watches[id(seen)] = seen
        try:
            yield seen
        finally:
            del self._watches[id(seen)]

    def left(self, prompt: Prompt) -> None:
        if prompt.job is not None:
            return
        self._prompts[prompt] = None
        for seen in self._watches.values():
            seen[prompt.prompt_id] = prompt

    def arrived(self, prompt: Prompt) -> None:
        """It is at an instance again, or has ended."""
        self._prompts.pop(prompt, None)
