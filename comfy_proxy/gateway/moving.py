"""The prompts that are on their way from one instance to another, and who must hear of them.

A view of the whole asks all instances at once, and their answers are of different moments. A prompt
that moves meanwhile may be in none of them: gone from its old place when that was looked at, not
yet at its new place when that was (trap 24). A look at the moving prompts before and after is not
enough, because a move can begin and end in between: whoever asks watches instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_proxy.gateway.gateway import MovingPrompt

MAX_LOOKS = 3
"""How often the instances are asked because a prompt that moved was seen nowhere."""


class MovingPrompts(dict[str, "MovingPrompt"]):
    """By prompt id; an entry is made before the prompt is deleted at its old place, and taken out
    when it is at its new one. Only ``moving[id] = …`` makes entries.
    """

    def __init__(self) -> None:
        super().__init__()
        self._watches: dict[int, dict[str, MovingPrompt]] = {}

    def __setitem__(self, prompt_id: str, prompt: MovingPrompt) -> None:
        super().__setitem__(prompt_id, prompt)
        for seen in self._watches.values():
            seen[prompt_id] = prompt

    @contextmanager
    def watch(self) -> Iterator[dict[str, MovingPrompt]]:
        """A dict that comes to hold whatever moves at any time inside the block."""
        seen = dict(self)
        self._watches[id(seen)] = seen
        try:
            yield seen
        finally:
            del self._watches[id(seen)]


@contextmanager
def watched(moving: Mapping[str, MovingPrompt]) -> Iterator[dict[str, MovingPrompt]]:
    """As :meth:`MovingPrompts.watch`; of a plain dict, what it holds before and after."""
    if isinstance(moving, MovingPrompts):
        with moving.watch() as seen:
            yield seen
    else:
        seen = dict(moving)
        yield seen
        seen.update(moving)
