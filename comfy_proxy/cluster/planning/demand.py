"""Which models somebody asked for just now, and what it costs others to load something else.

One prompt's own finish is not all that counts: whoever pushes out models that others ask for, or
loads a second copy where those had found room, causes loads that others have to wait for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.planning.line import Line
from comfy_proxy.cluster.planning.loaded import Models, missing

DEMAND_LOADS: Final = 20
"""Models are in demand for so many times the seconds of their load after somebody asked for them:
so long is it probable that they are asked for again."""
MAX_DEMAND_S: Final = 600.0
"""Seconds; no longer than that, however long the load takes."""
MAX_ASKED: Final = 256
"""So many sets of models that were asked for are remembered; the oldest goes for one more."""
WANTED_S: Final = 1.0
"""Seconds for which it is kept what is in demand: it is asked for at each choice."""


class Demand:
    """What was asked for, over ``lines``, those of all instances.

    ``version`` rises when models come to be in demand that were not: what harm it does to push
    them out has to be worked out anew.
    """

    def __init__(self, lines: Mapping[Instance, Line]) -> None:
        self.version = 0
        self._lines = lines
        self._asked: OrderedDict[Models, float] = OrderedDict()
        self._wanted: list[Models] = []
        self._wanted_at = float("-inf")

    def asked(self, models: Models, now: float) -> bool:
        """Somebody asks for ``models``; True if nobody has within this minute."""
        last = self._asked.get(models)
        is_new = last is None or int(last / 60) != int(now / 60)
        load_s = next(iter(self._lines.values())).loads(models)
        if load_s and not self._is_wanted(models, load_s, now):
            self.version += 1
        if last is None:
            self._wanted_at = float("-inf")
        self._asked[models] = now
        self._asked.move_to_end(models)
        if len(self._asked) > MAX_ASKED:
            self._asked.popitem(last=False)
        return is_new

    def harm_s(self, models: Models, line: Line, now: float) -> float:
        """Seconds to load again what has to go for ``models`` at the end of ``line``, and is in
        demand."""
        held, _ = line.after()
        left = line.loaded.memory.after(held, models)
        gone = (one for one in held if one not in left and missing(left, one))
        return sum(
            load_s
            for one in gone
            if (load_s := line.loads(missing(left, one))) and self._is_wanted(one, load_s, now)
        )

    def crowding(self, models: Models, now: float) -> set[Instance]:
        """Where a second copy of ``models`` takes the room of others that are in demand and loaded
        nowhere; nowhere if they are the only ones, or have no home themselves.

        ``models`` are at home where they are loaded once all that waits has run.
        """
        others = [one for one in self._all_wanted(now) if one != models and not self._has_home(one)]
        if not others or not self._has_home(models):
            return set()
        free = {one for one, line in self._lines.items() if self._has_room(line, now)}
        if len(others) > len(free):
            return set(self._lines)
        return free if len(others) == len(free) else set()

    def _all_wanted(self, now: float) -> list[Models]:
        """The sets in demand, the latest one first, as they were ``WANTED_S`` ago at most."""
        if now - self._wanted_at < WANTED_S:
            return self._wanted
        line = next(iter(self._lines.values()))
        found: list[Models] = []
        for models, asked in reversed(self._asked.items()):
            if now - asked > MAX_DEMAND_S or len(found) > len(self._lines) + 1:
                break  # more than there are instances: who has no home cannot get one
            load_s = line.loads(models)
            if load_s and self._is_wanted(models, load_s, now):
                found.append(models)
        self._wanted, self._wanted_at = found, now
        return found

    def _is_wanted(self, models: Models, load_s: float, now: float) -> bool:
        asked = self._asked.get(models)
        return asked is not None and now - asked <= min(DEMAND_LOADS * load_s, MAX_DEMAND_S)

    def _has_home(self, models: Models) -> bool:
        return any(not missing(line.after()[0], models) for line in self._lines.values())

    def _has_room(self, line: Line, now: float) -> bool:
        """Nothing that is loaded there at the end is in demand."""
        held, _ = line.after()
        return not any(self._is_wanted(one, line.loads(one), now) for one in held)
