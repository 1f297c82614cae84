"""What frames told of the results of prompts, until their entries of the history are read.

If the process of an instance ends in between, this is all that is left of what its client was told
(``views/heard_entries.py``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_lists import finite

MAX_PROMPTS: Final = 1_000
"""Prompts whose results are remembered; beyond them those of the one that was heard of first are
forgotten."""
MAX_BYTES: Final = 8 * 2**20
"""Bytes of the frames that told of all results; beyond them too the first ones are forgotten. A
prompt that tells more by itself is not remembered."""


@dataclass(kw_only=True, slots=True)
class HeardResults:
    """``outputs`` by node, files as ``instance`` names them; ``ended_ms`` is by its clock, in
    milliseconds since the epoch, None until its end was told."""

    instance: Instance
    outputs: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    ended_ms: float | None = None
    size: int = 0


class HeardOutputs:
    """By prompt id: of each that was heard from its beginning on, without a break."""

    def __init__(self) -> None:
        self._heard: OrderedDict[str, HeardResults] = OrderedDict()
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<HeardOutputs of {len(self._heard)} prompts, {self._bytes} B>"

    def began(self, prompt_id: str, instance: Instance) -> None:
        """It begins, perhaps anew: what was told before is not of this run."""
        self.forget(prompt_id)
        self._heard[prompt_id] = HeardResults(instance=instance)
        self._bound()

    def executed(
        self, prompt_id: str, node: str, output: Mapping[str, Any], size: int, instance: Instance
    ) -> None:
        """``instance`` tells, in a frame of ``size`` bytes, what ``node`` has made."""
        if (found := self.find(prompt_id, instance)) is not None:
            found.outputs[node] = output
            found.size += size
            self._bytes += size
            self._bound()

    def ended(self, prompt_id: str, told: Mapping[str, Any]) -> None:
        """The event of its end is there."""
        if (found := self._heard.get(prompt_id)) is not None:
            found.ended_ms = finite(told.get("timestamp")) or None

    def find(self, prompt_id: str, instance: Instance) -> HeardResults | None:
        """All that ``instance`` told of it; None if some of that was not heard, or is forgotten."""
        found = self._heard.get(prompt_id)
        return found if found is not None and found.instance is instance else None

    def interrupted(self, instance: Instance) -> None:
        """A connection to ``instance`` broke: what it told of prompts that run may have been
        missed."""
        for prompt_id, found in tuple(self._heard.items()):
            if found.instance is instance and found.ended_ms is None:
                self.forget(prompt_id)

    def _bound(self) -> None:
        while len(self._heard) > MAX_PROMPTS or self._bytes > MAX_BYTES:
            self.forget(next(iter(self._heard)))

    def forget(self, prompt_id: str) -> None:
        """Its entry was read, or is not to be read."""
        if (found := self._heard.pop(prompt_id, None)) is not None:
            self._bytes -= found.size
