"""Finds instances that answer everything and run nothing, and takes them out of use.

ComfyUI's thread that runs prompts can die while its HTTP server goes on (PROTOCOL.md trap 27). To
health checks such an instance is well, and its line looks short, but what is sent there waits for
ever. It is known by its queue: prompts wait, none runs, and its newest entry of ``/history`` stays
the same, so none has run in between, for as long as HANG_TIMEOUT says. Then it gets nothing new,
and what waits there goes elsewhere as from a drained one (``instance.runs_empty``). It is used
again once its process was started anew, it runs something, or an operator resumes it; that its
queue is empty by then proves nothing.

An instance is asked only after prompts have waited there for QUIET_S without that anything was
heard to run; the queue that a health check reads anyway is looked at as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from loguru import logger

from comfy_proxy.clock import Clock, wait_for_event
from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.drains import Drains, label
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.instance_tasks import InstanceTasks
from comfy_proxy.cluster.prompt_lists import NUMBERS, Newest, QueueView, read_newest
from comfy_proxy.cluster.roster import ByInstance, Roster
from comfy_proxy.errors import InstanceError
from comfy_proxy.observers import tell

QUIET_S: Final = 10.0
"""Seconds for which prompts wait at an instance, and nothing is heard to begin or end there, before
it is asked. With clients that listen nothing is asked of one that runs; of a prompt that nobody
hears the beginning of, one question tells that it runs."""
LOOKS: Final = 3
"""The time after which an instance stands still is cut into so many pauses, with a look after
each."""
LEAST_S: Final = 15.0
"""Seconds that it must stand still at least, however short HANG_TIMEOUT is: between two prompts
ComfyUI frees memory and collects garbage, which takes a few seconds at most."""
ASK_TIMEOUT_S: Final = 5.0
"""Seconds for the answers of one look; one that takes longer tells nothing, and is made again."""


@dataclass(kw_only=True, slots=True)
class _Watch:
    """What is known of one instance. ``heard`` is set by all that may change the verdict.

    ``remaining`` is the length of its queue that was told last. ``runs``: a look has shown that it
    runs something, of which nothing was heard since. ``idle``: a look has shown that nothing waits.
    ``since``: since when it stands still by its looks (monotonic seconds), None if it does not;
    ``newest`` is the newest entry of its history then, None if that is empty. ``interrupted``: its
    process may have been started anew since it was found to stand still.
    """

    heard: asyncio.Event = field(default_factory=asyncio.Event)
    remaining: int = 0
    runs: bool = False
    idle: bool = False
    since: float | None = None
    newest: Newest | None = None
    interrupted: bool = False

    def forget(self) -> None:
        """Something has happened there: what the looks have shown is out of date."""
        self.runs = self.idle = False
        self.since = None
        self.heard.set()

    def interrupt(self) -> None:
        """A connection broke, or it was away."""
        self.interrupted = True
        self.forget()

    def pause_s(self, timeout_s: float, *, runs: bool) -> float | None:
        """Seconds until the next look if nothing is heard before; None if there is no reason for
        one. ``runs``: it was heard that a prompt runs."""
        if self.runs or self.idle:
            return None
        if self.since is not None:
            return timeout_s / LOOKS
        return None if runs else QUIET_S


class Standstills:
    """Watches over ``instances`` between :meth:`start` and :meth:`close`; ``timeout_s`` is
    HANG_TIMEOUT in seconds, 0 for never.

    ``runs`` says whether a prompt is known to run at an instance. ``on_found`` callbacks hear of
    each that is found to stand still; ``drains`` hears whenever such an instance takes work or not.
    """

    def __init__(
        self,
        instances: Roster,
        clients: Mapping[Instance, ComfyUIClient],
        drains: Drains,
        *,
        clock: Clock,
        timeout_s: float,
    ) -> None:
        self._instances = instances
        self._clients = clients
        self._drains = drains
        self._clock = clock
        self._timeout_s = max(timeout_s, LEAST_S) if timeout_s else 0.0
        self._watching = False
        self._watches = ByInstance(lambda instance: _Watch())
        self._follows = InstanceTasks(instances, self._follow, "standstill of")
        self._returns = InstanceTasks(instances, self._look_for_return, "return of")
        self.runs: Callable[[Instance], bool] = lambda instance: False
        self.on_found: list[Callable[[Instance], object]] = []

    def start(self) -> None:
        """Watch from now on, also those that join later."""
        self._watching = self._timeout_s > 0
        if self._watching:
            self._instances.each(self._listen)

    async def close(self) -> None:
        """Ask nothing any more."""
        self._watching = False
        await asyncio.gather(self._follows.close(), self._returns.close())

    # --- what is heard -----------------------------------------------------------------------

    def taken(self, instance: Instance) -> None:
        """``instance`` has taken a prompt."""
        watch = self._watches[instance]
        if watch.idle:
            watch.forget()
        self._begin(instance)

    def began(self, instance: Instance) -> None:
        """A prompt runs at ``instance``."""
        self._watches[instance].forget()
        if instance.stands_still:
            self._use_again(instance, "it runs prompts again")
        self._begin(instance)

    def queue_read(self, instance: Instance, queue: QueueView) -> None:
        """For ``HealthChecker.on_queue``."""
        watch = self._watches[instance]
        if queue.running and instance.stands_still:
            self.began(instance)
        elif queue.running:
            watch.forget()
            watch.runs = True
        elif queue.pending and watch.since is None:
            watch.forget()
            self._begin(instance, suspected=True)

    def answered(self, instance: Instance) -> None:
        """For ``HealthChecker.on_success``: one that was interrupted can be asked now."""
        if self._watching and instance.stands_still and self._watches[instance].interrupted:
            self._returns.begin(instance)

    def resume(self, instance: Instance) -> None:
        """An operator says that ``instance`` works; if it does not it is found anew."""
        if instance.stands_still:
            self._use_again(instance, "it is resumed")

    def _listen(self, instance: Instance) -> None:
        instance.prompts.on_load.append(lambda: self._load_told(instance))
        instance.on_interruption.append(lambda one: self._watches[one].interrupt())

    def _load_told(self, instance: Instance) -> None:
        watch, remaining = self._watches[instance], instance.prompts.queue_remaining
        before, watch.remaining = watch.remaining, remaining
        if instance.stands_still and remaining < before:
            self._returns.wake(instance)  # taken away, or it runs again
        # While it is suspected the next look says whether one has run, or was only taken away.
        if not remaining or watch.idle or (remaining < before and watch.since is None):
            watch.forget()
        if remaining:
            self._begin(instance)

    def _begin(self, instance: Instance, *, suspected: bool = False) -> None:
        if self._watching and not instance.stands_still:
            if suspected:
                self._watches[instance].since = self._clock.monotonic()
            self._follows.begin(instance)

    # --- whether it stands still -------------------------------------------------------------

    async def _follow(self, instance: Instance) -> None:
        """Until nothing waits there, or it is found to stand still."""
        watch = self._watches[instance]
        while instance.prompts.queued and not instance.stands_still:
            watch.heard.clear()
            pause_s = None
            if instance.healthy:
                pause_s = watch.pause_s(self._timeout_s, runs=self.runs(instance))
            if not await wait_for_event(self._clock, watch.heard, pause_s):
                await self._look(instance, watch)

    async def _look(self, instance: Instance, watch: _Watch) -> None:
        told = instance.prompts.queue_remaining
        try:
            async with self._clock.timeout(ASK_TIMEOUT_S):
                queue = await self._clients[instance].queue()
                newest = await _newest(self._clients[instance])
        except (InstanceError, TimeoutError) as error:
            logger.debug("{}: whether it runs prompts is not known: {!r}", instance.host, error)
            return
        now = self._clock.monotonic()
        if watch.heard.is_set():
            return  # something has happened meanwhile
        if queue.running:
            watch.runs, watch.since = True, None
        elif not queue.pending:
            if instance.prompts.queue_remaining == told:
                instance.prompts.observed(0)  # no frame tells of one that a dying thread had taken
                watch.idle, watch.since = True, None
        elif watch.since is None or watch.newest != newest:
            watch.since, watch.newest = now, newest
        elif now - watch.since >= self._timeout_s:
            self._found(instance, watch, len(queue.pending), now - watch.since)

    def _found(self, instance: Instance, watch: _Watch, waiting: int, seconds: float) -> None:
        instance.stands_still, watch.interrupted = True, False
        logger.bind(instance=instance.host).warning(
            "instance {} ({}) stands still: of {} waiting there none has run for {:.0f} s. It"
            " gets no new work, and what can leave it leaves. Restart ComfyUI there: its thread"
            " that runs prompts has probably died, and its own log says why",
            *(instance.host, label(instance), waiting, seconds),
        )
        tell(self.on_found, instance)
        self._drains.tell(instance)

    # --- whether it is back ------------------------------------------------------------------

    async def _look_for_return(self, instance: Instance) -> None:
        """Another process has another history, or none; and what has run there is the newest."""
        watch = self._watches[instance]
        interrupted, watch.interrupted = watch.interrupted, False
        try:
            async with self._clock.timeout(ASK_TIMEOUT_S):
                newest = await _newest(self._clients[instance])
        except (InstanceError, TimeoutError) as error:
            logger.debug("{}: whether it is another process: {!r}", instance.host, error)
            watch.interrupted |= interrupted  # the next check asks again
            return
        is_back = interrupted if newest is None else newest != watch.newest
        if instance.stands_still and is_back:
            why = "it was started again" if interrupted else "it runs prompts again"
            self._use_again(instance, why)

    def _use_again(self, instance: Instance, why: str) -> None:
        instance.stands_still = False
        self._watches[instance].forget()
        logger.bind(instance=instance.host).warning(
            "instance {} ({}) gets work again: {}", instance.host, label(instance), why
        )
        self._drains.tell(instance)
        if instance.prompts.queued:
            self._begin(instance)


async def _newest(client: ComfyUIClient) -> Newest | None:
    return read_newest(await client.scanned("history", NUMBERS, params={"max_items": "1"}))
