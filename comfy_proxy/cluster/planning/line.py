"""What runs and waits at one instance, in its order, and when each of it will be finished.

ComfyUI runs one prompt at a time and takes the one with the lowest number next. So a prompt that
shares its models with others is best put behind them, by a number between theirs and the next one's
(PROTOCOL.md trap 24). Seconds here are predictions; times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from math import inf
from typing import Protocol

from comfy_proxy.cluster.planning.loaded import Held, LoadedModels, Models, missing
from comfy_proxy.cluster.planning.slot import Option, Slot
from comfy_proxy.cluster.planning.work import names_result_of

PATIENCE_LOADS = 4
"""A prompt is overtaken by work that needs no load for so many loads' time at most, and the time of
what waits with its own models: then loading takes a fifth of the time at most."""


class Loads(Protocol):
    """Seconds that it takes to load models at the instance of a line."""

    def __call__(self, models: tuple[str, ...]) -> float: ...


class Line:
    """The prompts of one instance. ``loads`` tells what loading costs there.

    ``patience_s``: nobody is overtaken who would have to wait for longer than that; None: see
    :meth:`_patience_with`.
    """

    def __init__(
        self, loaded: LoadedModels, loads: Loads, *, patience_s: float | None = None
    ) -> None:
        self.loaded = loaded
        self._patience_s = patience_s
        self._run_s_of: dict[Models, float] = {}  # of all that wait with these models
        self.loads = loads
        self._slots: dict[Hashable, Slot] = {}
        self._waiting: list[Slot] = []
        self._planned = True
        self.running: Slot | None = None
        self.began_at = 0.0
        self.offset_s = 0.0  # seconds until it begins, for one that goes on where another ends
        self.changes = 0  # rises with each change: what was computed from before is out of date

    def __repr__(self) -> str:
        return f"<Line {'running' if self.running else 'idle'} waiting={len(self._waiting)}>"

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._slots

    def __iter__(self) -> Iterator[Slot]:
        """Those that wait, in the order in which they will run."""
        self._plan()
        return iter(self._waiting)

    def find(self, key: Hashable) -> Slot | None:
        return self._slots.get(key)

    def is_running(self, key: Hashable) -> bool:
        return self.running is not None and self.running.key == key

    # --- what changes it ---------------------------------------------------------------------

    def join(self, slot: Slot, before: Slot | None = None) -> None:
        """It waits there now, next ahead of ``before``, or last; one of the same key gives way."""
        self.leave(slot.key)
        self._slots[slot.key] = slot
        self.changes += 1
        if before is not None:
            self._waiting.insert(self._waiting.index(before), slot)
            self._planned = False
            return
        self._waiting.append(slot)
        if self._planned:
            self._append(slot, *self._end_of(len(self._waiting) - 1))

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
            self._changed()

    def begin(self, key: Hashable, now: float) -> Slot | None:
        """It runs; the slot, None if it is not known here or runs already."""
        slot = self._slots.get(key)
        if slot is None or slot is self.running:
            return None
        self._plan()
        slot.load_s = self.loads(self.loaded.missing(slot.work.models))
        self._waiting.remove(slot)
        if self.running is not None:  # it has ended, heard or not
            del self._slots[self.running.key]
        self.running, self.began_at = slot, now
        self.loaded.began(slot.work.models)
        self._changed()
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
        self._changed()

    def changed(self) -> None:
        """What is loaded, or what costs what, is known to be otherwise."""
        self._changed()

    def _changed(self) -> None:
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

    def held_at_end(self) -> Held:
        """What is loaded when all that waits has run."""
        return self._at_end()[0]

    def waiting_s(self) -> float:
        """Seconds that all that waits takes, with the loads that it causes."""
        return self._at_end()[1]

    def beyond(self) -> Line:
        """An empty line that goes on where this one ends, to try out what else may join it."""
        line = Line(LoadedModels(self.loaded.memory), self.loads, patience_s=self._patience_s)
        line.loaded.held = self.held_at_end()
        return line

    def option(self, slot: Slot, now: float) -> Option:
        """What would become of ``slot``, which is not in this line yet, if it joined it.

        It goes behind those that wait and share its models if that saves loading, but overtakes
        nobody whose patience that would exceed, none of a place of its own, none of the same kind
        and client, and none whose result it names.
        """
        self._plan()
        held, end_s = self._at_end()
        load_s = self.loads(missing(held, slot.work.models))
        if load_s > 0 and self._patience_s != 0 and not slot.fixed:
            index = self._behind_its_own(slot, now)
            if index is not None:
                end_s = self._waiting[index - 1].end_s if index else 0.0
                before = self._waiting[index]
                return Option(behind_s=end_s, load_s=0.0, run_s=slot.run_s, before=before)
        return Option(behind_s=end_s, load_s=load_s, run_s=slot.run_s)

    def number_of(self, key: Hashable) -> float | None:
        """The number by which it gets its place here among those that have one; None if none has
        one that is behind it: then it goes to the end, where ComfyUI puts it without a number.

        None also if there is no number left between its neighbours'.
        """
        slot = self._slots.get(key)
        if slot is None or slot is self.running:
            return None
        index = self._waiting.index(slot)
        high = min((one.number for one in self._waiting[index + 1 :]), default=inf)
        if high == inf:
            return None
        before = [one.number for one in self._waiting[:index] if one.number < inf]
        if self.running is not None:
            before.append(self.running.number)
        low = max((number for number in before if number < high), default=high - 1)
        number = low + (high - low) / 1024  # near the one before it: many more fit behind
        return number if low < number < high else None

    def _behind_its_own(self, slot: Slot, now: float) -> int | None:
        """The index among those that wait before which it has its models loaded, behind all that
        use them; None if there is no place that it may have."""
        models, free_in_s = slot.work.models, self.free_in_s(now)
        first = (
            0 if self.running is not None else 1
        )  # with nothing running the first one begins now
        for index in range(len(self._waiting) - 1, first - 1, -1):
            other = self._waiting[index]
            start_s = free_in_s + other.end_s - other.load_s - other.run_s
            waits_s = start_s + slot.run_s + now - other.since
            if not self._may_overtake(slot, other) or waits_s > self._patience_with(other, slot):
                return None
            held = self._waiting[index - 1].held if index else self.loaded.held
            own = self._waiting[index - 1] if index else self.running
            is_behind_own = own is not None and not set(models).isdisjoint(own.work.models)
            if not missing(held, models) and (is_behind_own or not index):
                return index
        return None

    def _patience_with(self, other: Slot, slot: Slot) -> float:
        """For how long ``other`` may be kept waiting so that ``slot`` needs no load: the time of
        ``PATIENCE_LOADS`` loads, and that of what waits with the same models as ``other``."""
        if self._patience_s is not None:
            return self._patience_s
        load_s = max(self.loads(other.work.models), self.loads(slot.work.models))
        return PATIENCE_LOADS * load_s + self._run_s_of.get(other.work.models, 0.0)

    def _may_overtake(self, slot: Slot, other: Slot) -> bool:
        if other.fixed:
            return False
        if other.client == slot.client and other.work.kind == slot.work.kind:
            return False
        return not names_result_of(slot.work, other.work)

    def _at_end(self) -> tuple[Held, float]:
        self._plan()
        return self._end_of(len(self._waiting))

    def _end_of(self, count: int) -> tuple[Held, float]:
        """What is loaded, and after how many seconds, when the first ``count`` that wait have
        run."""
        if not count:
            return self.loaded.held, 0.0
        last = self._waiting[count - 1]
        return last.held, last.end_s

    def _plan(self) -> None:
        """Predict what waits."""
        if self._planned:
            return
        self._planned = True
        self._run_s_of.clear()
        held, end_s = self.loaded.held, 0.0
        for slot in self._waiting:
            self._append(slot, held, end_s)
            held, end_s = slot.held, slot.end_s

    def _append(self, slot: Slot, held: Held, end_s: float) -> None:
        """Predict ``slot``, which comes next when ``held`` is loaded after ``end_s`` seconds."""
        models = slot.work.models
        slot.load_s = self.loads(missing(held, models))
        slot.held = self.loaded.memory.after(held, models)
        slot.end_s = end_s + slot.load_s + slot.run_s
        self._run_s_of[models] = self._run_s_of.get(models, 0.0) + slot.run_s
