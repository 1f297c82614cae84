"""How many prompts wait or run over all instances, as sockets tell it.

A socket is told of a move by three frames in any order: less here, more there, and our own answer.
:class:`ToldQueue` keeps the sum from dipping in between: a client that sees a 0 looks for its
prompt in a history that does not have it yet (PROTOCOL.md trap 13). :class:`QueueSum` adds up what
the proxy's own sockets are told, :class:`OwnSum` corrects that for a client with sockets of its
own.
"""

from __future__ import annotations

from typing import Protocol, Self

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.ledger.ledger import Ledger


class Sum(Protocol):
    """``queue_remaining`` of all instances, for one client."""

    @property
    def total(self) -> int:
        """How many prompts wait or run."""


class ToldQueue:
    """The queue of ``instance`` as one socket there tells it.

    ``remaining`` is what a frame told last. ``untold`` are moved and new prompts that no frame has
    shown yet. One counts from the moment in which the instance is sent it until a frame tells of
    more prompts than before, or, once the instance has answered, until the next frame at all. So a
    sum may be one too high for a moment, but it never dips.
    """

    __slots__ = ("_instance", "_ledger", "_told", "remaining", "untold")

    def __init__(self, instance: Instance, ledger: Ledger) -> None:
        self._instance = instance
        self._ledger = ledger
        self._told = 0
        self.remaining = instance.prompts.queued if instance.healthy else len(ledger.at(instance))
        coming = ledger.submitting(instance)
        self.untold = sum(prompt.job is None for prompt in coming)

    def __repr__(self) -> str:
        return f"<ToldQueue {self._instance.host} {self.remaining}+{self.untold}>"

    @property
    def total(self) -> int:
        return self.remaining + self.untold

    def copy(self) -> Self:
        """As another socket there is to go on from it."""
        copied = type(self)(self._instance, self._ledger)
        copied._told, copied.remaining, copied.untold = self._told, self.remaining, self.untold
        return copied

    def sent(self) -> None:
        """The instance is being sent a prompt."""
        self.untold += 1

    def refused(self) -> None:
        """It did not take it."""
        self.untold = max(0, self.untold - 1)

    def told(self, remaining: int) -> None:
        """A ``status`` frame has said that so many wait or run there."""
        more = max(0, remaining - self._told)
        self._told = self.remaining = remaining
        self.untold = min(max(0, self.untold - more), self._arriving())

    def unheard(self) -> None:
        """No frame tells it any more: count what the ledger knows to wait or run there, so that the
        sum does not fall because an instance is away."""
        self.told(len(self._ledger.at(self._instance)))

    def _arriving(self) -> int:
        """How many it was sent and has not yet answered for."""
        return sum(prompt.job is None for prompt in self._ledger.submitting(self._instance))


class QueueSum:
    """``queue_remaining`` of all instances, as the proxy's own sockets tell it.

    That is what each instance told last, what it was sent and has not told of, and what is in
    transit and is being sent to none. Until a socket has told, what other sockets were told counts;
    where an instance is away, what the ledger knows.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._queues = ByInstance(lambda instance: ToldQueue(instance, ledger))
        self._sum: int | None = None

    def __repr__(self) -> str:
        return f"<QueueSum {self.total}>"

    def __getitem__(self, instance: Instance) -> ToldQueue:
        """To be read; changes are made by the methods here."""
        return self._queues[instance]

    @property
    def total(self) -> int:
        if self._sum is None:
            self._sum = sum(queue.total for queue in self._queues.values())
        return self._sum + self._ledger.transit.nowhere

    def joined(self, instance: Instance) -> None:
        """It counts from now on."""
        self._queues[instance] = ToldQueue(instance, self._ledger)
        self._sum = None

    def removed(self, instance: Instance) -> None:
        """It counts no more; what has left it for others is in transit."""
        self._queues.pop(instance, None)
        self._sum = None

    def sent(self, instance: Instance) -> None:
        """``instance`` is being sent a prompt."""
        self._queues[instance].sent()
        self._sum = None

    def refused(self, instance: Instance) -> None:
        """It did not take it."""
        self._queues[instance].refused()
        self._sum = None

    def told(self, instance: Instance, remaining: int) -> None:
        """So many wait or run at ``instance``, by a frame of it."""
        self._queues[instance].told(remaining)
        self._sum = None

    def unheard(self, instance: Instance) -> None:
        """No frame tells it any more."""
        self._queues[instance].unheard()
        self._sum = None


class OwnSum:
    """``queue_remaining`` for a client with sockets of its own at some instances: there it is what
    those tell, in the order in which they tell everything else."""

    def __init__(self, shared: QueueSum) -> None:
        self._shared = shared
        self._own = ByInstance[ToldQueue]()

    def __repr__(self) -> str:
        return f"<OwnSum {self.total}>"

    def __contains__(self, instance: object) -> bool:
        """Whether its own socket there has told anything yet."""
        return instance in self._own

    def get(self, instance: Instance) -> ToldQueue | None:
        """As its own socket there tells it; None if that has told nothing."""
        return self._own.get(instance)

    def begin(self, instance: Instance) -> None:
        """From now on its own socket there tells."""
        self._own[instance] = self._shared[instance].copy()

    def removed(self, instance: Instance) -> None:
        """The instance has left."""
        self._own.pop(instance, None)

    @property
    def total(self) -> int:
        shared = self._shared
        corrections = (one.total - shared[at].total for at, one in self._own.items())
        return shared.total + sum(corrections)
