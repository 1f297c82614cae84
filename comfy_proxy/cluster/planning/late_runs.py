"""When something that runs is so late that what waits behind it had better go elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Hashable

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.planning.figures import tie_s
from comfy_proxy.cluster.planning.line import Line
from comfy_proxy.cluster.planning.planner import Planner


def gains_in_s(
    planner: Planner, key: Hashable, busy: Instance, idle: Instance, now: float
) -> float | None:
    """Seconds after which ``planner.gains`` will say yes because what runs at ``busy`` is so late
    by then; None if nothing runs there, if nothing is known, or if that is so already."""
    line = planner.lines[busy]
    slot, due_s, end_s = line.find(key), _due_in_s(line, now), line.end_s(key)
    if slot is None or due_s is None or end_s is None:
        return None
    figures = planner.figures(slot, [idle])
    if not figures:
        return None
    late_s = max(0.0, figures[0].cost_s + tie_s(slot.run_s) - end_s)
    return due_s + late_s if due_s + late_s > 0 else None


def _due_in_s(line: Line, now: float) -> float | None:
    """Seconds until what runs there should have ended, negative once it is late; None if nothing
    runs, as far as is known."""
    if line.running is None:
        return None
    return line.running.load_s + line.running.run_s - max(0.0, now - line.began_at)
