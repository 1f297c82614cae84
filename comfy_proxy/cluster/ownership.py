"""Which instance has what: prompts by id, output files by name. Bounded, forgets the oldest.

A record is a hint that saves asking: whoever finds none asks all instances.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from comfy_proxy.cluster.instance import Instance

MAX_RECORDS = 50_000

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileName:
    """A file as ComfyUI addresses it; ``type`` is input, output or temp."""

    filename: str
    subfolder: str = ""
    type: str = "output"


class Owners(Generic[K]):
    """key → instance; the record that was made longest ago goes when there are too many."""

    def __init__(self, limit: int = MAX_RECORDS) -> None:
        self._limit = limit
        self._records: OrderedDict[K, tuple[Instance, float]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Owners {len(self._records)} records>"

    def record(self, key: K, instance: Instance, at: float = -math.inf) -> None:
        """``instance`` has it, whoever had it before; since ``at``, for :meth:`record_past`."""
        self._records[key] = instance, at
        self._records.move_to_end(key)
        if len(self._records) > self._limit:
            self._records.popitem(last=False)

    def record_past(self, key: K, instance: Instance, at: float) -> bool:
        """It is heard only now that ``instance`` got it at ``at``.

        False, and nothing has changed, if another one is known to have got it later.
        """
        known = self._records.get(key)
        if known is not None and known[1] > at:
            return False
        self.record(key, instance, at)
        return True

    def owner(self, key: K) -> Instance | None:
        known = self._records.get(key)
        return None if known is None else known[0]

    def forget(self, key: K) -> None:
        self._records.pop(key, None)


class Ownership:
    """The records of one cluster."""

    def __init__(self) -> None:
        self.prompts: Owners[str] = Owners()
        self.files: Owners[FileName] = Owners()
