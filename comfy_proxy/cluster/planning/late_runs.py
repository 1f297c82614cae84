"""When something that runs is so late that what waits behind it had better go elsewhere. Pure."""

from __future__ import annotations

from typing import Final

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.planning.figures import Figure, free_in
from comfy_proxy.cluster.planning.line import Line
from comfy_proxy.cluster.planning.planner import Planner, gains_beyond_s
from comfy_proxy.cluster.planning.slot import Slot

ROUNDING_S: Final = 1e-6
"""Seconds by which what is foreseen comes later than the moment that is computed: so much at most
is lost in adding up, and a look before that moment would find nothing."""


class LateRun:
    """What runs at ``busy`` at the moment ``now`` (monotonic seconds), seen by what waits there."""

    def __init__(self, planner: Planner, busy: Instance, now: float) -> None:
        self._planner = planner
        self._busy = busy
        self._line = line = planner.lines[busy]
        self._due_s = due_in_s(line, now)
        self._others_s = free_in(busy, line, planner.costs, now) - line.free_in_s(now)

    def gains_in_s(self, slot: Slot, figure: Figure) -> float | None:
        """Seconds after which the prompt of ``slot``, which waits there, will gain
        (``planner.gains``) at the instance of ``figure`` because what runs is so late by then; None
        if nothing runs, or if that is so already."""
        due_s, end_s = self._due_s, self._line.end_s(slot.key)
        if due_s is None or end_s is None or slot is self._line.running:
            return None
        beyond_s = gains_beyond_s(slot, figure, self._planner.run_s(slot.work, self._busy))
        late_s = beyond_s - self._others_s - end_s + ROUNDING_S
        return due_s + late_s if late_s > 0 and due_s + late_s > 0 else None


def due_in_s(line: Line, now: float) -> float | None:
    """Seconds until what runs there should have ended, negative once it is late; None if nothing
    runs, as far as is known."""
    if line.running is None:
        return None
    return line.running.load_s + line.running.run_s - max(0.0, now - line.began_at)
