"""Which instances there are, while some join and others leave.

A part of the proxy that keeps a value for each instance keeps it in a :class:`ByInstance`, which
drops the value when the instance leaves. A part that has to begin something for each instance
registers with :meth:`Roster.each`; one that has to end something, with ``Roster.on_removed``.
Background work for each instance is an ``instance_tasks.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar, overload

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.observers import tell

T = TypeVar("T")


class Roster(Sequence[Instance]):
    """The instances, in the order of the configuration, those that joined later at the end.

    An iteration goes through the members of the moment in which it began. ``on_removed`` callbacks
    are called with an instance that has left: it is no member any more then, and ``Instance.left``
    is set. ``former`` are the numbers of the instances that have left and not joined again.
    """

    def __init__(self, instances: Iterable[Instance] = ()) -> None:
        self._members = tuple(instances)
        self._on_added: list[Callable[[Instance], object]] = []
        self.on_removed: list[Callable[[Instance], None]] = []
        self._by_id = {one.id: one for one in self._members}
        self.former: set[str] = set()

    @classmethod
    def of(cls, instances: Iterable[Instance]) -> Roster:
        """``instances`` themselves if they are a roster, else one with these."""
        return instances if isinstance(instances, Roster) else cls(instances)

    def __repr__(self) -> str:
        return f"<Roster {list(self._members)}>"

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Instance]:
        return iter(self._members)

    def __contains__(self, instance: object) -> bool:
        return instance in self._members

    @overload
    def __getitem__(self, place: int) -> Instance: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Instance, ...]: ...
    def __getitem__(self, place: int | slice) -> Instance | tuple[Instance, ...]:
        return self._members[place]

    @property
    def by_id(self) -> Mapping[str, Instance]:
        """The members by their numbers; it changes with them."""
        return MappingProxyType(self._by_id)

    def each(self, on_added: Callable[[Instance], object]) -> None:
        """Call ``on_added`` with each member now, and with each instance that joins later."""
        for instance in self._members:
            on_added(instance)
        self._on_added.append(on_added)

    def add(self, instance: Instance) -> None:
        """Make ``instance`` the last member, and tell those who asked by :meth:`each`."""
        self._members = (*self._members, instance)
        self._by_id[instance.id] = instance
        self.former.discard(instance.id)
        tell(self._on_added, instance)

    def remove(self, instance: Instance) -> None:
        """End the membership of ``instance``, tell ``on_removed``, and drop what is kept of it.

        What is still under way with the instance finds it unhealthy.
        """
        instance.left = True
        self._members = tuple(one for one in self._members if one is not instance)
        del self._by_id[instance.id]
        self.former.add(instance.id)
        tell(self.on_removed, instance)
        for kept in tuple(instance.kept_by.values()):
            kept.pop(instance, None)
        instance.observers.clear()


class ByInstance(dict[Instance, T]):
    """A value for each instance, which is dropped when the instance leaves.

    ``make`` makes the value of an instance that has none yet. For an instance that has left nothing
    is stored: each look-up gets a new value, which nobody else sees.
    """

    def __init__(self, make: Callable[[Instance], T] | None = None) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, instance: Instance) -> T:
        if self._make is None:
            raise KeyError(instance)
        value = self._make(instance)
        self[instance] = value
        return value

    def __setitem__(self, instance: Instance, value: T) -> None:
        if instance.left:
            return
        if instance not in self:
            instance.kept_by[id(self)] = self
        super().__setitem__(instance, value)

    def setdefault(self, instance: Instance, value: Any = None) -> Any:
        """As of a dict."""
        if instance not in self:
            self[instance] = value
        return self.get(instance, value)
