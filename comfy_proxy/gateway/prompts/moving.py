"""The prompts that are on their way from one instance to another, and who must hear of them.

A view of the whole asks all instances at once, and their answers are of different moments. A prompt
that moves meanwhile may be in none of them: gone from its old place when that was looked at, not
yet at its new place when that was (trap 24). A look at the moving prompts before and after is not
enough, because a move can begin and end in between: whoever asks watches instead.

A socket is told of a move by three frames in any order: less here, more there, and our own answer.
:class:`UntoldArrivals` keeps its sum from dipping in between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from comfy_proxy.cluster.instance import Instance

MAX_LOOKS = 3
"""How often the instances are asked because a prompt that moved was seen nowhere."""


@dataclass(kw_only=True, slots=True, eq=False)
class MovingPrompt:
    """A prompt on its way from one instance to another: for a moment neither shows it.

    ``queue_entry`` is its entry of ``/queue``: ``[number, id, prompt, extra_data, outputs]``.
    ``target`` has been sent it and has not yet answered. ``cancelled``: a client has deleted it.
    """

    prompt_id: str
    queue_entry: list[Any] = field(repr=False)
    target: Instance | None = None
    cancelled: bool = False


class MovingPrompts(dict[str, MovingPrompt]):
    """By prompt id; an entry is made before the prompt is deleted at its old place, and taken out
    when it is at its new one. Only ``moving[id] = …`` makes entries. ``posts``: so many prompts of
    clients each instance has been sent for the first time and has not yet answered for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.posts: Counter[Instance] = Counter()
        self._watches: dict[int, dict[str, MovingPrompt]] = {}

    def __setitem__(self, prompt_id: str, prompt: MovingPrompt) -> None:
        super().__setitem__(prompt_id, prompt)
        for seen in self._watches.values():
            seen[prompt_id] = prompt

    @property
    def nowhere(self) -> int:
        """How many have been sent to no instance yet."""
        return sum(prompt.target is None for prompt in self.values())

    def arriving(self) -> Counter[Instance]:
        """How many each instance was sent and has not yet answered for."""
        moved = Counter(one.target for one in self.values() if one.target is not None)
        return moved + self.posts

    @contextmanager
    def watch(self) -> Iterator[dict[str, MovingPrompt]]:
        """A dict that comes to hold whatever moves at any time inside the block."""
        seen = dict(self)
        self._watches[id(seen)] = seen
        try:
            yield seen
        finally:
            del self._watches[id(seen)]


class UntoldArrivals:
    """For one client: moved and new prompts that its sockets' ``status`` frames do not show yet.

    One counts from the moment in which an instance is sent it until a frame of that instance tells
    of more prompts than before, or, once the instance has answered, until its next frame at all.
    So a sum may be one too high for a moment, but it never dips.
    """

    def __init__(self, moving: MovingPrompts) -> None:
        self._moving = moving
        self._untold = moving.arriving()
        self._told: dict[Instance, int] = {}

    @property
    def total(self) -> int:
        return self._untold.total()

    def sent(self, instance: Instance) -> None:
        """``instance`` is being sent a prompt that moves."""
        self._untold[instance] += 1

    def refused(self, instance: Instance) -> None:
        """It did not take it."""
        self._untold[instance] = max(0, self._untold[instance] - 1)

    def told(self, instance: Instance, remaining: int) -> None:
        """A ``status`` frame of ``instance`` has said that ``remaining`` wait or run there."""
        more = max(0, remaining - self._told.get(instance, 0))
        self._told[instance] = remaining
        left = max(0, self._untold[instance] - more)
        self._untold[instance] = min(left, self._moving.arriving()[instance])
