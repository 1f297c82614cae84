"""Where in the line of an instance one more prompt is to go.

Behind those that wait and share its models, if that saves loading. ComfyUI takes the prompt with
the lowest number next, so a place in the queue is a number between those of its neighbours.
"""

from __future__ import annotations

from collections.abc import Hashable
from math import inf
from typing import Final

from comfy_proxy.cluster.planning.line import Line
from comfy_proxy.cluster.planning.loaded import LoadedModels, Models, missing
from comfy_proxy.cluster.planning.slot import Option, Slot
from comfy_proxy.cluster.planning.work import Work, names_result_of

PATIENCE_LOADS: Final = 4
"""A prompt is overtaken by work that needs no load for so many loads' time at most, and the time of
what waits with its own models: then loading takes a fifth of the time at most."""
STEPS: Final = 1024
"""A number is that part of the way to the next one's: near the one before it, so that many more fit
behind it."""


def option(line: Line, slot: Slot, run_s: float | None = None) -> Option:
    """What would become of ``slot``, which is not in ``line`` yet, if it joined it; ``run_s`` is
    what it runs there, None if ``slot`` says so rightly.

    It overtakes nobody whose patience that would exceed, none of a place of its own, none of the
    same kind and client, and none whose result it names.
    """
    run_s = slot.run_s if run_s is None else run_s
    end = _end_index(line)
    held, end_s = line.after(end)
    parked = line.waiting[end] if end < len(line.waiting) else None
    load_s = line.loads(missing(held, slot.work.models))
    if load_s > 0 and line.patience_s != 0 and not slot.fixed:
        index = _behind_its_own(line, slot)
        if index is not None:
            before = line.waiting[index]
            return Option(behind_s=line.after(index)[1], load_s=0.0, run_s=run_s, before=before)
    return Option(behind_s=end_s, load_s=load_s, run_s=run_s, before=parked)


def _end_index(line: Line) -> int:
    """Where a prompt without a number comes: at the end, but before those that their clients have
    put behind everything by a high number."""
    waiting = line.waiting
    end = len(waiting)
    while end and waiting[end - 1].fixed and line.counter < waiting[end - 1].number < inf:
        end -= 1
    return end


def absent(line: Line, models: Models) -> Models:
    """Those of ``models`` that are not loaded there, and that nobody who waits there uses."""
    held, _ = line.after()
    if not missing(held, models):
        return ()
    left = line.loaded.missing(models)
    for used in line.run_s_of if left else ():
        left = tuple(model for model in left if model not in used)
    return left


def beyond(line: Line, offset_s: float) -> Line:
    """An empty line that goes on where ``line`` ends, to try out what else may join it; it begins
    in ``offset_s`` seconds."""
    loaded = LoadedModels(line.loaded.memory)
    other = Line(loaded, line.loads, runs=line.runs, patience_s=line.patience_s)
    other.loaded.held, _ = line.after()
    other.offset_s, other.tried_out = offset_s, True
    return other


def place_matters(line: Line, work: Work | None) -> bool:
    """Whether the place of ``work`` among those that wait makes a difference: they use other models
    than it, which cost something to load."""
    if work is None or not work.models or line.patience_s == 0:
        return False
    others = any(one.work.models not in ((), work.models) for one in line.waiting)
    return others and line.loads(work.models) > 0


def result_of_line(line: Line, slot: Slot) -> bool:
    """Whether ``slot`` names a result of a prompt of its own client that waits or runs there."""
    if not slot.work.reads:
        return False
    there = line.waiting if line.running is None else [line.running, *line.waiting]
    return any(one.client == slot.client and names_result_of(slot.work, one.work) for one in there)


def number_of(line: Line, key: Hashable) -> float | None:
    """The number by which that prompt gets its place among those that have one.

    None if nobody behind it has one: it goes to the end, where ComfyUI puts it without a number. So
    if those behind it have numbers of other instances, above what this one has given so far, or of
    their clients' choice; or if there is no number left between its neighbours'.
    """
    slot = line.find(key)
    if slot is None or slot is line.running:
        return None
    waiting = line.waiting
    index = waiting.index(slot)
    high = min((one.number for one in waiting[index + 1 :] if not one.fixed), default=inf)
    if high == inf or high > line.counter + 1:
        return None
    before = [one.number for one in waiting[:index] if one.number < inf]
    if line.running is not None:
        before.append(line.running.number)
    low = max((number for number in before if number < high), default=high - 1)
    number = low + (high - low) / STEPS
    return number if low < number < high else None


def kept_number(line: Line, number: float) -> float | None:
    """The ``number`` that another instance gave a prompt, or this one before it was restarted, if
    the prompt may keep it there.

    None if this one has not given so high a number yet, as far as is known: ComfyUI would let all
    later prompts overtake it, one after the other, until its own count is there.
    """
    return number if number <= line.counter < inf else None


def _behind_its_own(line: Line, slot: Slot) -> int | None:
    """The index among those that wait before which it has its models loaded, behind all that use
    them; None if there is no place that it may have."""
    models, waiting = slot.work.models, line.waiting
    if absent(line, models):
        return None
    # With nothing running the first one begins now, unless it is not there yet.
    first = 0 if line.running is not None or line.tried_out else 1
    for index in range(_end_index(line) - 1, first - 1, -1):
        other = waiting[index]
        overtaken_s = other.overtaken_s + slot.run_s
        if not _may_overtake(slot, other) or overtaken_s > _patience_with(line, other, slot):
            return None
        held = waiting[index - 1].held if index else line.loaded.held
        own = waiting[index - 1] if index else line.running
        is_behind_own = own is not None and not set(models).isdisjoint(own.work.models)
        if not missing(held, models) and (is_behind_own or not index):
            return index
    return None


def _patience_with(line: Line, other: Slot, slot: Slot) -> float:
    """For how long in all ``other`` may be overtaken so that those like ``slot`` need no load: the
    time of ``PATIENCE_LOADS`` loads, and that of what waits with the same models as ``other``.

    How long it waits otherwise does not count: in a queue that is longer than this, nobody could be
    put to its own, and by turns each of 48 prompts of four models loaded one.
    """
    if line.patience_s is not None:
        return line.patience_s
    load_s = max(line.loads(other.work.models), line.loads(slot.work.models))
    return PATIENCE_LOADS * load_s + line.run_s_of.get(other.work.models, 0.0)


def _may_overtake(slot: Slot, other: Slot) -> bool:
    if other.fixed:
        return False
    if other.client == slot.client and other.work.kind == slot.work.kind:
        return False
    return not names_result_of(slot.work, other.work)
