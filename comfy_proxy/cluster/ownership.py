"""Which instance has which prompt. Bounded, forgets the oldest.

A record is a hint that saves asking: whoever finds none asks all instances.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from comfy_proxy.cluster.instance import Instance

MAX_RECORDS = 50_000

K = TypeVar("K", bound=Hashable)


class Owners(Generic[K]):
    """key → instance; the record that was made longest ago goes when there are too many."""

    def __init__(self, limit: int = MAX_RECORDS) -> None:
        self._limit = limit
        self._records: OrderedDict[K, Instance] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Owners {len(self._records)} records>"

    def record(self, key: K, instance: Instance) -> None:
        """``instance`` has it, whoever had it before."""
        self._records[key] = instance
        self._records.move_to_end(key)
        if len(self._records) > self._limit:
            self._records.popitem(last=False)

    def owner(self, key: K) -> Instance | None:
        return self._records.get(key)


class Ownership:
    """The records of one cluster."""

    def __init__(self) -> None:
        self.prompts: Owners[str] = Owners()
