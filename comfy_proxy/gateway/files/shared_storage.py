"""Which instances have one directory between them, so that nothing is to be renamed or copied.

``SHARED_STORAGE=true``: all instances share input, output and temp; ``false``: none does. ``auto``:
it is found out (``storage_probe.py``), for each of the three by itself: many setups share only
some, and of many instances perhaps only those of one machine.

What is not known counts as not shared: that costs copies and marks, nothing else. An instance that
was away, or whose socket broke off, shares nothing until it has been tried again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loguru import logger

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.files.file_name import FILE_TYPES, RESULT_TYPES
from comfy_proxy.gateway.files.instance_prefix import prefix_outputs
from comfy_proxy.gateway.files.storage_probe import have_one_directory
from comfy_proxy.tracing import untraced

if TYPE_CHECKING:
    from comfy_proxy.cluster.cluster import Cluster

RETRY_S = 5.0
"""How soon an instance of which nothing could be found out is tried again."""
RECHECK_S = 600.0
"""How soon those that share are tried again: somebody may have mounted something over it."""


@dataclass(eq=False, slots=True)
class _Group:
    """Instances that were seen to have one directory; one alone is a group too."""

    members: set[Instance] = field(default_factory=set)


@dataclass(eq=False, slots=True)
class _Directories:
    """What is known of one kind. ``home`` is the group that all instances have been in at once.

    ``former`` are the members of a home that is none any more: names without a mark are theirs.
    """

    count: int
    groups: dict[Instance, _Group] = field(default_factory=dict)
    home: _Group | None = None
    former: frozenset[Instance] = frozenset()

    def members(self, instance: Instance) -> set[Instance]:
        group = self.groups.get(instance)
        return {instance} if group is None else set(group.members)

    def leave(self, instance: Instance) -> None:
        group = self.groups.pop(instance, None)
        if group is not None:
            group.members.discard(instance)

    def enter(self, instance: Instance, group: _Group) -> None:
        self.leave(instance)
        self.groups[instance] = group
        group.members.add(instance)
        if len(group.members) == self.count:
            self.home, self.former = group, frozenset()
        elif (home := self.home) is not None and group is not home:
            self.home, self.former = None, frozenset(home.members)


class SharedStorage:
    """What the instances of one cluster share.

    ``changed(instance)`` is called just before other answers about that instance hold.
    """

    def __init__(self, cluster: Cluster, changed: Callable[[Instance], None]) -> None:
        self._cluster = cluster
        self._changed = changed
        self._auto = cluster.settings.shared_storage == "auto"
        self._watching = False
        self._kinds = {kind: _Directories(len(cluster.instances)) for kind in sorted(FILE_TYPES)}
        self._one_at_a_time = asyncio.Lock()
        self._tasks: dict[Instance, asyncio.Task[None]] = {}
        self._due: dict[Instance, float] = {}
        self._lives: Counter[Instance] = Counter()
        if cluster.settings.shared_storage == "true":
            self.declare()

    def __repr__(self) -> str:
        return f"<SharedStorage {self._shown()}>"

    def start(self) -> None:
        """From now on find out what :meth:`heard` gives reason to."""
        self._watching = self._auto and len(self._cluster.instances) > 1

    async def close(self) -> None:
        """End what is being found out."""
        self._watching = False
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def declare(self) -> None:
        """All instances share everything, whatever anybody would find."""
        self._auto = self._watching = False
        for kind in self._kinds.values():
            group = _Group()
            for instance in self._cluster.instances:
                kind.enter(instance, group)

    # --- questions ---------------------------------------------------------------------

    def place(self, instance: Instance, kind: str) -> Hashable:
        """The same for all instances that share this directory."""
        group = self._kinds[kind].groups.get(instance) if kind in self._kinds else None
        return instance if group is None or len(group.members) < 2 else group

    def same(self, one: Instance, other: Instance, kind: str) -> bool:
        """Whether they have one directory between them."""
        return self.place(one, kind) == self.place(other, kind)

    def is_common(self, instance: Instance, kind: str) -> bool:
        """True if all instances have been seen to share this directory, and this one still is."""
        home = self._kinds[kind].home if kind in self._kinds else None
        return home is not None and instance in home.members

    def common(self, kind: str) -> list[Instance]:
        """Those of which that is true: their files bear no mark."""
        return [one for one in self._cluster.instances if self.is_common(one, kind)]

    def former(self, kind: str) -> list[Instance]:
        """Whose files bore no mark until another instance was found to share no more."""
        former = self._kinds[kind].former if kind in self._kinds else ()
        return [one for one in self._cluster.instances if one in former]

    def marked(self, output: Any, instance: Instance) -> Any:
        """An output of ``instance`` as clients see it: a mark where not all have the file."""
        kinds = frozenset(kind for kind in RESULT_TYPES if not self.is_common(instance, kind))
        return prefix_outputs(output, instance.id, kinds) if kinds else output

    # --- what is heard -----------------------------------------------------------------

    def heard(self, instance: Instance) -> None:
        """``instance`` answers: if it is time for it, find out what it shares."""
        due = self._due.get(instance)
        if not self._watching or instance in self._tasks:
            return
        if due is None or self._cluster.clock.monotonic() >= due:
            task = asyncio.create_task(
                self._find_out(instance), name=f"storage of {instance.host}", context=untraced()
            )
            self._tasks[instance] = task
            task.add_done_callback(lambda _done: self._tasks.pop(instance, None))

    def interrupted(self, instance: Instance) -> None:
        """It was away, or its socket broke off: its directories may be others, or empty."""
        self._lives[instance] += 1
        for member in {one for kind in self._kinds.values() for one in kind.members(instance)}:
            self._changed(member)
        self.doubt(instance)

    def doubt(self, instance: Instance) -> None:
        """It shares nothing until it has been tried again."""
        if self._auto:
            self._changed(instance)
            self._due.pop(instance, None)
            for kind in self._kinds.values():
                kind.leave(instance)

    # --- how it is found out -----------------------------------------------------------

    async def _find_out(self, instance: Instance) -> None:
        async with self._one_at_a_time:
            before = self._shown()
            lives = -1
            while lives != self._lives.total():  # else somebody was away meanwhile
                lives = self._lives.total()
                # One after the other: of an instance that is dying only the first is a strike.
                known = [await self._place(instance, kind) for kind in self._kinds]
            wait_s = RECHECK_S if all(known) else RETRY_S
            self._due[instance] = self._cluster.clock.monotonic() + wait_s
            if (after := self._shown()) != before:
                logger.info("directories that all instances share: {}", after)
                if "output" in after and "output" not in before:
                    logger.warning(
                        "output is shared: ComfyUI may give one name to two results that are saved"
                        " under one prefix at the same moment, and only one of them remains"
                    )

    def _shown(self) -> str:
        return ", ".join(name for name, kind in self._kinds.items() if kind.home) or "none"

    async def _place(self, instance: Instance, name: str) -> bool:
        """Put it into the group it belongs to; False if that cannot be said now."""
        kind = self._kinds[name]
        own = kind.groups.get(instance)
        if own is not None and len(own.members) == 1:
            return True
        if own is not None:
            shares = await self._belongs(instance, own, name)
            if shares is not False:
                return shares is True
            logger.warning("{} does not share its {} directory any more", instance.host, name)
        for group in dict.fromkeys(kind.groups.values()):
            shares = group is not own and await self._belongs(instance, group, name)
            if shares is None:
                return False
            if shares:
                self._enter(instance, group, kind)
                return True
        self._enter(instance, _Group(), kind)
        return True

    def _enter(self, instance: Instance, group: _Group, kind: _Directories) -> None:
        for member in kind.members(instance) | group.members:
            self._changed(member)
        kind.enter(instance, group)

    async def _belongs(self, instance: Instance, group: _Group, kind: str) -> bool | None:
        """Whether it has the directory of ``group``; None if that cannot be said now."""
        others = [one for one in group.members if not one.failing and one is not instance]
        if not others or instance.failing:
            return None
        other = min(others, key=lambda one: one.id)
        lives = self._lives[instance], self._lives[other]
        shares = await have_one_directory(other, instance, kind, self._cluster)
        if lives != (self._lives[instance], self._lives[other]):
            return None
        return shares
