"""Numbers of ended prompts that grow as prompts end, over all instances.

Each instance counts its prompts from its own start. ComfyUI's frontend sorts the history by these
numbers, and of a new history takes only what is above the highest that it has: of two counts it
would never see the results of the lower one, and nothing of a server that was started again. So
an ended prompt has the time of its end (ms) for its number. A number that a client chose, a float
in ComfyUI, stays; so does that of a prompt that was put in front, which is negative.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

MAX_NUMBERS = 50_000
"""So many prompts keep the number that was shown of them. Beyond it the one that was numbered
longest ago gets a new one when it is shown again, by the same rule."""
LATE_MS = 10_000
"""Milliseconds. A prompt that is shown for the first time may have ended so much earlier than the
latest end that was shown, and still gets a higher number than that: an instance writes its history
a little after the end, and the clocks of instances differ. An older one keeps the time of its end
for its number."""


class HistoryNumbers:
    """What was told is remembered, bounded; after a restart it is the same to a few ms."""

    def __init__(self, limit: int = MAX_NUMBERS) -> None:
        self._limit = limit
        self._numbers: OrderedDict[tuple[str, float], int] = OrderedDict()
        self._highest = 0

    def __repr__(self) -> str:
        return f"<HistoryNumbers {len(self._numbers)} up to {self._highest}>"

    def shown(self, prompt_id: str, ended_ms: float | None, own: Any) -> Any:
        """What to show for the number ``own`` of a prompt that ended at ``ended_ms``.

        ``own`` itself if it is not known when it ended, or no instance counted that number.
        """
        if ended_ms is None or type(own) is not int or own < 0:
            return own
        key = prompt_id, ended_ms
        if (known := self._numbers.get(key)) is not None:
            return known
        number = int(ended_ms)
        if number <= self._highest < number + LATE_MS:
            number = self._highest + 1
        self._highest = max(self._highest, number)
        self._numbers[key] = number
        if len(self._numbers) > self._limit:
            self._numbers.popitem(last=False)
        return number
