"""What runs and waits at one instance, in its order, and when each of it will be finished.

ComfyUI runs one prompt at a time and takes the one with the lowest number next. Where one more is
to go is in ``joining.py``. Seconds here are predictions; times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from math import inf
from typing import Protocol

from comfy_proxy.cluster.planning.loaded import Held, LoadedModels, Models, missing
from comfy_proxy.cluster.planning.slot import Slot
from comfy_proxy.cluster.planning.work import Work


class Loads(Protocol):
    """Seconds that it takes to load models at the instance of a line."""

    def __call__(self, models: tuple[str, ...]) -> float: ...


class Line:
    """The prompts of one instance. ``loads`` tells what loading costs there, ``runs`` how long a
    work runs there (None: as its slot says), ``patience_s`` for how long in all a prompt may be
    overtaken so that others need no load; None: see ``joining.py``."""

    def __init__(
        self,
        loaded: LoadedModels,
        loads: Loads,
        *,
        runs: Callable[[Work], float] | None = None,
        patience_s: float | None = None,
    ) -> None:
        self.loaded = loaded
        self.loaded.on_change = self.changed
        self.loads = loads
        self.runs = runs
        self.patience_s = patience_s
        self.run_s_of: dict[Models, float] = {}  # seconds of all that wait with these models
        self._slots: dict[Hashable, Slot] = {}
        self._waiting: list[Slot] = []
        self._planned = True
        self._after: dict[tuple[Held, Models], tuple[float, Held]] = {}  # as long as it is planned
        self.running: Slot | None = None
        self.began_at = 0.0
        self.offset_s = 0.0  # seconds until it begins, for one that goes on where another ends
        self.counter = inf  # the highest number that the instance chose itself, as far as is known
        self.runs_ended = 0  # warm runs of its process that ended well
        self.tried_out = False  # True if what joins it has not been sent
        self.changes = 0  # rises with each change: what was computed from before is out of date

    def __repr__(self) -> str:
        return f"<Line {'running' if self.running else 'idle'} waiting={len(self._waiting)}>"

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def waiting(self) -> list[Slot]:
        """Those that wait, in the order in which they will run; not to be changed."""
        self._plan()
        return self._waiting

    def find(self, key: Hashable) -> Slot | None:
        """Its slot, whether it waits or runs; None if it is not known here."""
        return self._slots.get(key)

    # --- what changes it ---------------------------------------------------------------------

    def join(self, slot: Slot, before: Slot | None = None) -> None:
        """It waits there now, next ahead of ``before``, or last; one of the same key gives way."""
        self.leave(slot.key)
        self._slots[slot.key] = slot
        self.changes += 1
        if before is not None:
            index = self._waiting.index(before)
            for other in self._waiting[index:]:
                other.overtaken_s += slot.run_s
            self._waiting.insert(index, slot)
            self._planned = False
            return
        self._waiting.append(slot)
        if self._planned:
            self._append(slot, *self.after(len(self._waiting) - 1))

    def renamed(self, key: Hashable, new: Hashable) -> None:
        """It is known as ``new`` from now on."""
        slot = self._slots.pop(key, None)
        if slot is not None:
            slot.key = new
            self._slots[new] = slot

    def numbered(self, key: Hashable, number: float) -> None:
        """Its instance has given it ``number``: it goes where that belongs among the others'."""
        slot = self._slots.get(key)
        if slot is None or slot.number == number:
            return
        slot.number = number
        if slot is self.running:
            return
        places = [index for index, one in enumerate(self._waiting) if one.number < inf]
        ordered = sorted((self._waiting[index] for index in places), key=lambda one: one.number)
        if any(self._waiting[at] is not one for at, one in zip(places, ordered, strict=True)):
            for index, one in zip(places, ordered, strict=True):
                self._waiting[index] = one
            self.changed()

    def begin(self, key: Hashable, now: float) -> Slot | None:
        """It runs; the slot, None if it is not known here or runs already."""
        slot = self._slots.get(key)
        if slot is None or slot is self.running:
            return None
        self._plan()
        slot.load_s = self.loads(self.loaded.missing(slot.work.models))
        if self.runs is not None:
            slot.run_s = self.runs(slot.work)
        self._waiting.remove(slot)
        if self.running is not None:  # it has ended, heard or not
            self._slots.pop(self.running.key, None)
        self.running, self.began_at = slot, now
        self.loaded.began(slot.work.models)
        self.changed()
        return slot

    def leave(self, key: Hashable) -> None:
        """It has ended there, or was taken away; nothing if it is not known here."""
        slot = self._slots.pop(key, None)
        if slot is None:
            return
        if slot is self.running:
            self.running = None
        else:
            self._waiting.remove(slot)
        self.changed()

    def changed(self) -> None:
        """What is loaded, or what costs what, is known to be otherwise."""
        self._planned = False
        self.changes += 1

    # --- what will be --------------------------------------------------------------------------

    def free_in_s(self, now: float) -> float:
        """Seconds until what runs there has ended. One that has run for longer than it should is
        taken to run on for as long as it is late."""
        if self.running is None:
            return self.offset_s
        elapsed = max(0.0, now - self.began_at)
        expected = self.running.load_s + self.running.run_s
        return abs(expected - elapsed)

    def end_s(self, key: Hashable) -> float | None:
        """Seconds from the moment when the instance is free until that prompt has ended: 0 for the
        one that runs. None if it is not known here."""
        slot = self._slots.get(key)
        if slot is None:
            return None
        self._plan()
        return 0.0 if slot is self.running else slot.end_s

    def after(self, count: int | None = None) -> tuple[Held, float]:
        """What is loaded, and after how many seconds from when it is free, once the first ``count``
        that wait have run; None: once all have."""
        if count is None:
            self._plan()
            count = len(self._waiting)
        if not count:
            return self.loaded.held, 0.0
        last = self._waiting[count - 1]
        return last.held, last.end_s

    def _plan(self) -> None:
        """Predict what waits."""
        if self._planned:
            return
        self._planned = True
        self._after.clear()
        self.run_s_of.clear()
        held, end_s = self.loaded.held, 0.0
        for slot in self._waiting:
            self._append(slot, held, end_s)
            held, end_s = slot.held, slot.end_s

    def _append(self, slot: Slot, held: Held, end_s: float) -> None:
        """Predict ``slot``, which comes next when ``held`` is loaded after ``end_s`` seconds."""
        models = slot.work.models
        known = self._after.get((held, models))
        if known is None:
            load_s = self.loads(missing(held, models))
            known = self._after[held, models] = load_s, self.loaded.memory.after(held, models)
        slot.load_s, slot.held = known
        if self.runs is not None:  # more may be known of it than when it came
            slot.run_s = self.runs(slot.work)
        slot.end_s = end_s + slot.load_s + slot.run_s
        self.run_s_of[models] = self.run_s_of.get(models, 0.0) + slot.run_s
