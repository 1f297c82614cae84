"""How many prompts wait or run over all instances, as one client's sockets tell it.

A socket is told of a move by three frames in any order: less here, more there, and our own answer.
:class:`UntoldArrivals` keeps the sum from dipping in between: a client that sees a 0 looks for its
prompt in a history that does not have it yet (PROTOCOL.md trap 13). :class:`QueueSum` adds up.
"""

from __future__ import annotations

from collections.abc import Iterable

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.ledger.ledger import Ledger


class UntoldArrivals:
    """For one client: moved and new prompts that its sockets' ``status`` frames do not show yet.

    One counts from the moment in which an instance is sent it until a frame of that instance tells
    of more prompts than before, or, once the instance has answered, until its next frame at all.
    So a sum may be one too high for a moment, but it never dips.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._untold = ByInstance[int](lambda instance: 0)
        self._told = ByInstance[int]()
        for prompt in ledger.submitting():
            if prompt.target is not None and prompt.job is None:
                self._untold[prompt.target] += 1

    @property
    def total(self) -> int:
        return sum(self._untold.values())

    def sent(self, instance: Instance) -> None:
        """``instance`` is being sent a prompt."""
        self._untold[instance] += 1

    def refused(self, instance: Instance) -> None:
        """It did not take it."""
        self._untold[instance] = max(0, self._untold[instance] - 1)

    def told(self, instance: Instance, remaining: int) -> None:
        """A ``status`` frame of ``instance`` has said that ``remaining`` wait or run there."""
        more = max(0, remaining - self._told.get(instance, 0))
        self._told[instance] = remaining
        left = max(0, self._untold[instance] - more)
        self._untold[instance] = min(left, self._arriving(instance))

    def removed(self, instance: Instance) -> None:
        """It has left: no frame of it is to come."""
        self._untold.pop(instance, None)
        self._told.pop(instance, None)

    def _arriving(self, instance: Instance) -> int:
        """How many it was sent and has not yet answered for."""
        coming = self._ledger.submitting(instance)
        return sum(prompt.job is None for prompt in coming)


class QueueSum:
    """``queue_remaining`` of all instances, for one client.

    That is what each instance told last, what is in transit and is being sent to none, and what
    they were sent and have not told of (``arrivals``).
    """

    def __init__(self, instances: Iterable[Instance], ledger: Ledger) -> None:
        self._instances = instances
        self._ledger = ledger
        self._remaining = ByInstance[int]()
        self.begin_anew()
        self.arrivals = UntoldArrivals(ledger)

    def begin_anew(self) -> None:
        """Count what other sockets were told, until its own sockets tell; where one is away, what
        the ledger knows."""
        for one in self._instances:
            self.joined(one)

    def joined(self, one: Instance) -> None:
        """It counts from now on."""
        self._remaining[one] = one.prompts.queued if one.healthy else len(self._ledger.at(one))

    def removed(self, instance: Instance) -> None:
        """It counts no more; what has left it for others is in transit."""
        self._remaining.pop(instance, None)
        self.arrivals.removed(instance)

    @property
    def total(self) -> int:
        return sum(self._remaining.values()) + self._ledger.transit.nowhere + self.arrivals.total

    def told(self, instance: Instance, remaining: int) -> None:
        """So many wait or run at ``instance``, by a frame of it."""
        self._remaining[instance] = remaining
        self.arrivals.told(instance, remaining)

    def untold(self, instance: Instance) -> None:
        """No frame tells it any more: count what the ledger knows to wait or run there, so that the
        sum does not fall because an instance is away."""
        self.told(instance, len(self._ledger.at(instance)))
