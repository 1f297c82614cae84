"""Instances that an operator adds and removes while the proxy runs.

An instance that joins is checked at once, and gets work as soon as it answers. One that is to be
removed is drained first (``drains.py``): it gets no new work, what waits there goes elsewhere, what
runs there ends. Then it leaves, and what it alone had is unknown to the proxy. All this is in
memory: a restart of the proxy reads the configuration again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextvars import Context
from typing import Final, Protocol

from loguru import logger
from yarl import URL

from comfy_proxy.clock import Clock, sleep, wait_for_event
from comfy_proxy.cluster.connection_manager import ConnectionManager
from comfy_proxy.cluster.drains import Drains, label
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.newcomers import Newcomers
from comfy_proxy.cluster.roster import Roster
from comfy_proxy.cluster.translation import InstanceGoneError
from comfy_proxy.errors import RequestError
from comfy_proxy.instance_settings import canonical
from comfy_proxy.observers import tell
from comfy_proxy.tracing import untraced

RESULTS_S: Final = 2.0
"""Seconds for which a drained instance stays after its last prompt has ended, so that clients which
ask once a second see the end and can fetch the result."""
LINGER_S: Final = 30.0
"""Seconds that exchanges which are under way when their instance leaves have to end, as a long
download may need; beyond them they are cut off."""
UNHEARD_S: Final = 10.0
"""Seconds between two looks at an instance that is empty, but keeps prompts whose ends are not on
record. If it is away at a look it leaves all the same, and those prompts go on elsewhere."""
_LONG_S: Final = 24 * 3600.0


class MembershipError(RequestError):
    """A change that the present instances do not allow; ``details.field`` names the field that is
    in the way."""

    status = 409
    code = "instance_conflict"


class Spawn(Protocol):
    """Runs a chore in the background; it ends with the cluster at the latest."""

    def __call__(
        self, chore: Coroutine[None, None, None], *, context: Context | None = None
    ) -> None:
        """Begin it."""


class Membership:
    """Adds, renames and removes instances.

    Right before an instance leaves, ``on_leaving`` callbacks send what is still there elsewhere.
    After it has left, ``farewells`` tell it what it need not do any more: once at once, and once
    more when all exchanges with it have ended, because it may have taken a prompt meanwhile.

    ``has_more`` says whether the ledger has prompts there. If the instance is empty those have
    ended, and it stays until their ends are on record (:meth:`look`).

    ``several`` says whether there were several instances at the start. A proxy that was started
    with one instance takes no others.
    """

    def __init__(
        self,
        roster: Roster,
        newcomers: Newcomers,
        drains: Drains,
        connections: ConnectionManager,
        *,
        clock: Clock,
        spawn: Spawn,
    ) -> None:
        self._roster = roster
        self._newcomers = newcomers
        self._drains = drains
        self._connections = connections
        self._clock = clock
        self._spawn = spawn
        self.several = len(roster) > 1
        self._leaving: dict[Instance, _Leaving] = {}
        self.on_leaving: list[Callable[[Instance], None]] = [_give_up]
        self.has_more: Callable[[Instance], bool] = lambda instance: False
        self.farewells: list[Callable[[Instance], Awaitable[None]]] = []

    def __repr__(self) -> str:
        return f"<Membership {len(self._roster)}, {len(self._leaving)} leaving>"

    # --- joining -----------------------------------------------------------------------------

    def add(self, url: URL, name: str | None = None) -> Instance:
        """Have the instance at ``url`` join now, whether or not it answers; its first check is
        under way. Before that has passed nothing is sent there: it may hang, or be no ComfyUI, and
        a request that goes to all instances would wait for it.

        Raises MembershipError if another instance has its address or name, or if the proxy was
        started with one instance alone.
        """
        self.require_several()
        for one in self._roster:
            if canonical(one.url) == canonical(url):
                raise _conflict("url", f"That is the address of instance {one.id} already.")
        _require_free(name, self._roster)
        instance = self._newcomers.make(url, name)
        for one in (one for one in self._roster if one.host == instance.host):
            raise _conflict("url", f"Instance {one.id} has that host and port already.")
        logger.bind(instance=instance.host).warning(
            "instance {} ({}) is added", instance.host, label(instance)
        )
        instance.breaker.begin_open()
        self._roster.add(instance)
        return instance

    def rename(self, names: Mapping[Instance, str | None]) -> None:
        """Give these instances these names. Raises MembershipError if another instance has one of
        them; then nothing has changed."""
        others = [one for one in self._roster if one not in names]
        for name in names.values():
            _require_free(name, others)
        for instance, name in names.items():
            logger.bind(instance=instance.host).warning(
                "instance {} ({}) is called {} now",
                *(instance.host, label(instance), name or instance.id),
            )
            instance.name = name
            self._drains.tell(instance)

    def require_several(self) -> None:
        """Raises MembershipError if the proxy was started with one instance alone."""
        if not self.several:
            raise _conflict(
                "url",
                "The proxy was started with one instance and passes everything to it as it comes,"
                " so no other one can join. Restart it with two in its configuration.",
            )

    # --- leaving -----------------------------------------------------------------------------

    async def remove(self, instance: Instance, *, wait_s: float = 0.0, force: bool = False) -> bool:
        """Drain ``instance``, and remove it once it is empty. Returns True if it has left within
        ``wait_s``, else False: then it leaves later, unless it is resumed.

        With ``force`` it leaves at once. What is there goes on elsewhere, and this instance is told
        to end it. Raises MembershipError if no other instance would be left.
        """
        if not instance.left and not any(
            one is not instance and not one.leaving for one in self._roster
        ):
            raise _conflict(
                "id", "It is the last instance, which cannot be removed: drain it, or add another."
            )
        if force and not instance.left:
            self._go(instance)
        if instance.left:
            return True
        leaving = self._leaving.get(instance)
        if leaving is None:
            leaving = self._leaving[instance] = _Leaving()
            instance.leaving = True
            self._spawn(self._leave(instance, leaving), context=untraced())
        await leaving.looked.wait()
        await wait_for_event(self._clock, leaving.over, wait_s)
        return instance.left

    async def _leave(self, instance: Instance, leaving: _Leaving) -> None:
        """Drain ``instance`` and let it go once it is empty; stop if it is resumed before."""
        try:
            await self._drains.drain(instance)
            while instance.drained and not instance.left:
                leaving.changed.clear()
                idle_s = self._clock.monotonic() - instance.prompts.worked_at
                unheard = instance.healthy and self.has_more(instance)
                if not (instance.load or unheard or idle_s < RESULTS_S):
                    self._go(instance)
                    return
                leaving.looked.set()
                if instance.load:
                    await self._drains.empty(instance, _LONG_S)
                elif unheard:
                    await wait_for_event(self._clock, leaving.changed, UNHEARD_S)
                else:
                    await sleep(self._clock, RESULTS_S - idle_s)
        finally:
            instance.leaving = False
            self._leaving.pop(instance, None)
            leaving.looked.set()
            leaving.over.set()

    def look(self) -> None:
        """A prompt has ended, or went on elsewhere: look again whether an instance may leave."""
        for leaving in self._leaving.values():
            leaving.changed.set()

    def _go(self, instance: Instance) -> None:
        instance.drained = True
        tell(self.on_leaving, instance)
        self._roster.remove(instance)
        logger.bind(instance=instance.host).warning(
            "instance {} ({}) is removed", instance.host, label(instance)
        )
        self._drains.tell(instance)  # jobs that wait for it, or for any place, are looked at again
        self._spawn(self._part(instance), context=untraced())

    async def _part(self, instance: Instance) -> None:
        """Say the farewells, and end the connections when no exchange uses them any more."""
        for farewell in self.farewells:
            await farewell(instance)
        await instance.exchanges.over(self._clock, LINGER_S)
        for farewell in self.farewells:  # it may have taken something meanwhile
            await farewell(instance)
        await self._connections.disconnect(instance)


class _Leaving:
    """An instance that is to leave. ``looked`` is set once it is known whether it can leave at
    once, ``changed`` when the answer may have changed, ``over`` when it has left or was resumed."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.looked = asyncio.Event()
        self.over = asyncio.Event()


def _give_up(instance: Instance) -> None:
    """For ``on_leaving``: our jobs there go on elsewhere."""
    for placement in tuple(instance.placements):
        if placement.give_up is not None:
            placement.give_up(InstanceGoneError(f"ComfyUI instance {instance.id} was removed."))


def _require_free(name: str | None, others: Iterable[Instance]) -> None:
    for one in others:
        if name is not None and one.name == name:
            raise _conflict("name", f"{name} is the name of instance {one.id} already.")


def _conflict(field: str, message: str) -> MembershipError:
    return MembershipError(message, details={"field": field})
