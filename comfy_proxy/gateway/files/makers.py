"""Which instance made each file last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.files.file_name import FileName, one_spelling
from comfy_proxy.observers import tell

MAX_RECORDS = 50_000
"""How many files are on record; beyond, the record that was made longest ago goes. A file that is
on no record is looked for at all instances."""


class Owners:
    """File → the instance that has it, and since when (seconds since the epoch)."""

    def __init__(self, limit: int = MAX_RECORDS) -> None:
        self._limit = limit
        self._records: OrderedDict[FileName, tuple[Instance, float]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Owners {len(self._records)} records>"

    def removed(self, instance: Instance) -> None:
        """It has left, and has nothing any more."""
        left = ((file, one) for file, one in self._records.items() if one[0] is not instance)
        self._records = OrderedDict(left)

    def record(self, file: FileName, instance: Instance, at: float) -> None:
        """``instance`` has it since ``at``, whoever had it before."""
        if instance.left:
            return
        self._records[file] = instance, at
        self._records.move_to_end(file)
        if len(self._records) > self._limit:
            self._records.popitem(last=False)

    def record_past(self, file: FileName, instance: Instance, at: float) -> bool:
        """It is heard only now that ``instance`` got it at ``at``: a history was read late.

        False, and nothing has changed, if another one is known to have got it later.
        """
        known = self._records.get(file)
        if known is not None and known[1] > at:
            return False
        self.record(file, instance, at)
        return True

    def owner(self, file: FileName) -> Instance | None:
        known = self._records.get(file)
        return None if known is None else known[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """``at`` made ``file`` at ``made_at``, in seconds since the epoch; ``is_sure`` as of
    :meth:`Makers.record`."""

    file: FileName
    at: Instance
    made_at: float
    is_sure: bool


class Makers:
    """Who made each file last. Names that differ only in their separators (``/`` and backslash) are
    one name. ``on_made`` hears of each file that is made."""

    def __init__(self, clock: Clock) -> None:
        self._last = Owners()
        self._sure = Owners()
        self._clock = clock
        self.on_made: list[Callable[[Made], None]] = []

    def __repr__(self) -> str:
        return f"<Makers {self._last}>"

    def removed(self, instance: Instance) -> None:
        """It has left: what it made is looked for at the others."""
        self._last.removed(instance)
        self._sure.removed(instance)

    def of(self, file: FileName) -> Instance | None:
        """Who made it, as far as is known; whether it is still there is another question."""
        return self._last.owner(one_spelling(file))

    def is_sure(self, file: FileName) -> bool:
        """True if the instance of :meth:`of` has told the file in full, not only in a text."""
        key = one_spelling(file)
        return (sure := self._sure.owner(key)) is not None and sure is self._last.owner(key)

    def record(
        self, file: FileName, at: Instance, made_at: float | None = None, *, is_sure: bool = True
    ) -> bool:
        """``at`` made it just now, or at ``made_at`` (seconds since the epoch).

        False, and nothing has changed, if another one is known to have made it since.
        """
        key, now = one_spelling(file), self._clock.now().timestamp()
        if made_at is not None and not self._last.record_past(key, at, made_at):
            return False
        if made_at is None:
            self._last.record(key, at, now)
        if is_sure:
            self._sure.record(key, at, now)
        tell(self.on_made, Made(file=key, at=at, made_at=made_at or now, is_sure=is_sure))
        return True
