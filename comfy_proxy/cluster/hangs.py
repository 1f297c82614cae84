"""When the prompts of an instance that is away, or hangs, go elsewhere.

An instance whose circuit opens may be dead, cut off, hung, or busy with a model for longer than
three checks (PROTOCOL.md trap 8). What waits there loses nothing by going elsewhere, so it goes at
once. What runs there may be nearly done, so it goes only after a silence of HANG_TIMEOUT, or of
three times as long as its models take to load if that is longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from comfy_proxy.clock import Clock, sleep
from comfy_proxy.cluster.hang_watch import HangWatch, InstanceHangsError
from comfy_proxy.cluster.instance import Instance, takes_work
from comfy_proxy.cluster.instance_tasks import InstanceTasks
from comfy_proxy.cluster.planning.planner import Planner
from comfy_proxy.cluster.roster import Roster
from comfy_proxy.observers import tell

LOADS: Final = 3
"""What runs is given up after a silence of at least so many times the learned load of its
models."""
LEAST_PAUSE_S: Final = 0.1
"""Seconds between two looks at an instance that was silent long enough, but has not failed its last
check or has nobody who could take its work."""


class Hangs:
    """Calls ``on_away`` with an instance whose circuit has opened, and ``on_hung`` once its silence
    has lasted as long as the module says; both only while another instance can take its work."""

    def __init__(
        self, instances: Iterable[Instance], watch: HangWatch, planner: Planner, *, clock: Clock
    ) -> None:
        self._instances = Roster.of(instances)
        self._watch = watch
        self._planner = planner
        self._clock = clock
        self._watching = False
        self._follows = InstanceTasks(self._instances, self._follow, "hang of")
        self.on_away: list[Callable[[Instance], None]] = [_give_up_waiting]
        self.on_hung: list[Callable[[Instance], None]] = [_give_up_all]

    def start(self) -> None:
        """Call back from now on, until :meth:`close`; never for a single instance, whose work has
        nowhere to go."""
        self._watching = len(self._instances) > 1

    def circuit_changed(self, instance: Instance) -> None:
        """For ``instance.on_circuit``."""
        if not self._watching:
            return
        if instance.healthy:
            self._follows.cancel(instance)
            self._others_can()
        else:
            self._follows.begin(instance)

    async def close(self) -> None:
        """Call nobody any more."""
        self._watching = False
        await self._follows.close()

    def may_leave(self, instance: Instance) -> bool:
        """Whether what waits at ``instance``, which is away, has somewhere else to go."""
        others = (one for one in self._instances if one is not instance)
        return not instance.healthy and any(map(takes_work, others))

    def _others_can(self) -> None:
        """An instance that can take work has returned: what waits at those that are away may go to
        it."""
        for instance in self._instances:
            if self.may_leave(instance):
                tell(self.on_away, instance)

    async def _follow(self, instance: Instance) -> None:
        if self.may_leave(instance):
            tell(self.on_away, instance)
        if not self._watch.timeout_s:
            return
        while not instance.healthy:
            wait_s = instance.signs.heard_at + self._patience_s(instance) - self._clock.monotonic()
            if wait_s <= 0 and self._watch.hangs(instance) and self.may_leave(instance):
                tell(self.on_hung, instance)
                wait_s = self._watch.timeout_s  # then for what has come to be there since
            await sleep(self._clock, max(wait_s, LEAST_PAUSE_S))

    def _patience_s(self, instance: Instance) -> float:
        """After how many seconds of silence what runs there is given up."""
        running = self._planner.lines[instance].running
        models = () if running is None else running.work.models
        load_s = self._planner.costs.load_s(instance, models) if models else 0.0
        return max(self._watch.timeout_s, LOADS * load_s)


def _give_up_waiting(instance: Instance) -> None:
    for placement in tuple(instance.placements):
        if placement.give_up is not None and placement.in_queue and not placement.running:
            placement.give_up(InstanceHangsError(f"{instance.host} is away; it waited there."))


def _give_up_all(instance: Instance) -> None:
    for placement in tuple(instance.placements):
        if placement.give_up is not None:
            placement.give_up(InstanceHangsError(f"{instance.host} does not answer any more."))
