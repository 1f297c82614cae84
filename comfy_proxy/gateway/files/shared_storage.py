"""Which instances have one directory between them, so that nothing is to be renamed or copied.

``SHARED_STORAGE=true``: all instances share input, output and temp; ``false``: none does. ``auto``:
``storage_discovery.py`` finds it out for each of the three directories by itself, since many setups
share only some of them, and perhaps only among the instances of one machine.

What is not known counts as not shared: that costs copies and prefixes, nothing else. So an instance
that was away, or whose socket broke off, shares nothing until it has been tried again: it may have
come back with another directory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.files.file_name import FILE_TYPES, RESULT_TYPES
from comfy_proxy.gateway.files.instance_prefix import prefix_outputs

if TYPE_CHECKING:
    from comfy_proxy.cluster.cluster import Cluster


@dataclass(eq=False, slots=True)
class Group:
    """Instances that were seen to have one directory; one alone is a group too."""

    members: set[Instance] = field(default_factory=set)


@dataclass(eq=False, slots=True)
class Directories:
    """What is known of one kind (input, output or temp), for ``count`` instances.

    ``home`` is the group that all instances have been in at once. ``former`` are the members of a
    home that is none any more, since one of them was found elsewhere: the results that clients were
    told without a prefix are theirs.
    """

    count: int
    groups: dict[Instance, Group] = field(default_factory=dict)
    home: Group | None = None
    former: frozenset[Instance] = frozenset()

    def members(self, instance: Instance) -> set[Instance]:
        group = self.groups.get(instance)
        return {instance} if group is None else set(group.members)

    def leave(self, instance: Instance) -> None:
        group = self.groups.pop(instance, None)
        if group is not None:
            group.members.discard(instance)

    def enter(self, instance: Instance, group: Group) -> None:
        self.leave(instance)
        self.groups[instance] = group
        group.members.add(instance)
        if len(group.members) == self.count:
            self.home, self.former = group, frozenset()
        elif (home := self.home) is not None and group is not home:
            self.home, self.former = None, frozenset(home.members)


class SharedStorage:
    """What the instances of one cluster share, as far as is known.

    ``changed(instance)`` is called just before other answers about that instance hold.
    """

    def __init__(self, cluster: Cluster, changed: Callable[[Instance], None]) -> None:
        self._instances = cluster.instances
        self._changed = changed
        self.is_discovered = cluster.settings.shared_storage == "auto"
        """False if the settings say what is shared; then nothing that is seen changes it."""
        self.kinds = {kind: Directories(len(cluster.instances)) for kind in sorted(FILE_TYPES)}
        self.doubts: Counter[Instance] = Counter()
        """How often each was doubted: at the next health check it is to be tried again."""
        self.interruptions: Counter[Instance] = Counter()
        """How often each was away: what a probe saw before that counts no more."""
        if cluster.settings.shared_storage == "true":
            self.declare()

    def __repr__(self) -> str:
        return f"<SharedStorage {self.shown()}>"

    def shown(self) -> str:
        """The kinds that all instances share, for the log."""
        return ", ".join(name for name, kind in self.kinds.items() if kind.home) or "none"

    def declare(self) -> None:
        """All instances share everything, whatever anybody would find."""
        self.is_discovered = False
        for kind in self.kinds.values():
            group = Group()
            for instance in self._instances:
                kind.enter(instance, group)

    # --- questions ---------------------------------------------------------------------

    def place(self, instance: Instance, kind: str) -> Hashable:
        """A key that is the same for all instances that share this directory."""
        group = self.kinds[kind].groups.get(instance) if kind in self.kinds else None
        return instance if group is None or len(group.members) < 2 else group

    def same(self, one: Instance, other: Instance, kind: str) -> bool:
        """Whether they have one directory between them."""
        return self.place(one, kind) == self.place(other, kind)

    def is_common(self, instance: Instance, kind: str) -> bool:
        """True if all instances have been seen to share this directory, and this one still is."""
        home = self.kinds[kind].home if kind in self.kinds else None
        return home is not None and instance in home.members

    def common(self, kind: str) -> list[Instance]:
        """Those of which that is true: their results have no prefix."""
        return [one for one in self._instances if self.is_common(one, kind)]

    def former(self, kind: str) -> list[Instance]:
        """Whose results had no prefix until another instance was found to share no more."""
        former = self.kinds[kind].former if kind in self.kinds else ()
        return [one for one in self._instances if one in former]

    def prefixed(self, output: Any, instance: Instance) -> Any:
        """An output of ``instance`` as clients see it: prefixed where not all have the file."""
        kinds = frozenset(kind for kind in RESULT_TYPES if not self.is_common(instance, kind))
        return prefix_outputs(output, instance.id, kinds) if kinds else output

    # --- what changes it ---------------------------------------------------------------

    def enter(self, instance: Instance, group: Group, kind: str) -> None:
        """``instance`` was seen to have the directory of ``group``."""
        directories = self.kinds[kind]
        for member in directories.members(instance) | group.members:
            self._changed(member)
        directories.enter(instance, group)

    def interrupted(self, instance: Instance) -> None:
        """It was away, or its socket broke off: its directories may be others, or empty."""
        self.interruptions[instance] += 1
        for member in {one for kind in self.kinds.values() for one in kind.members(instance)}:
            self._changed(member)
        self.doubt(instance)

    def doubt(self, instance: Instance) -> None:
        """It shares nothing until it has been tried again, at its next health check."""
        self.doubts[instance] += 1
        if self.is_discovered:
            self._changed(instance)
            for kind in self.kinds.values():
                kind.leave(instance)
