"""How writes reach the instances that did not take them at once.

A write that the primary has accepted is to be on every instance's disk. Each instance has a queue
of the writes that it missed, which are sent in order, one at a time: when it answers again, and at
the latest before it serves a read or takes a write itself.

The queues are in memory: after a restart of the proxy an instance keeps what it has.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from loguru import logger

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.exchange.context import USER_HEADER
from comfy_proxy.gateway.exchange.fanout import Answer
from comfy_proxy.gateway.state.requests import USERS, StateRequest, send
from comfy_proxy.gateway.state.user_ids import UserIds

if TYPE_CHECKING:
    from comfy_proxy.cluster.cluster import Cluster

MAX_MISSED = 1000
MAX_MISSED_BYTES = 256 * 2**20
MOVE: Final = "/userdata/{file}/move/{dest}"


class Replication:
    """The queues of one cluster's instances. ``users`` tells by which id each knows a user."""

    def __init__(self, cluster: Cluster, users: UserIds) -> None:
        self._cluster = cluster
        self._users = users
        self._missed = ByInstance(lambda instance: MissedWrites())
        self._catching_up = ByInstance(lambda instance: asyncio.Lock())

    def missed(self, instance: Instance) -> int:
        """How many writes ``instance`` has still to get."""
        return len(self._missed[instance])

    def is_catching_up(self, instance: Instance) -> bool:
        """True while it is being told what it missed."""
        return self._catching_up[instance].locked()

    def add(self, write: StateRequest, instance: Instance) -> None:
        """``instance`` is to get ``write`` after those that it missed before."""
        self._missed[instance].add(write)

    async def send(self, state: StateRequest, instance: Instance) -> Answer:
        """One exchange, with the id that ``instance`` has for the user. Raises InstanceError.

        The id is looked up here, at the last moment: a write of a new user may have waited for the
        one that makes the user.
        """
        user_id = state.headers.get(USER_HEADER)
        if user_id is not None:
            state = state.by(self._users.at(instance, user_id))
        return await send(state, instance, self._cluster)

    async def catch_up(self, instance: Instance) -> None:
        """Tell ``instance`` what it has missed. Raises InstanceError if it does not answer.

        A refusal is an answer: a file to be deleted may never have been there.
        """
        missed = self._missed[instance]
        async with self._catching_up[instance]:
            while (write := missed.first) is not None:
                reply = await self.send(write, instance)
                missed.done(write)
                if write.pattern == USERS:  # before a write of that user comes
                    await self._users.ask_again(instance)
                if reply.status >= 400:
                    logger.log(
                        "WARNING" if reply.status >= 500 else "DEBUG",
                        "{} answered {} to a write that it had missed: {} {}",
                        *(instance.host, reply.status, write.method, write.path),
                    )

    async def try_to_catch_up(self, instance: Instance) -> None:
        """As :meth:`catch_up`; if it does not answer, it is told another time."""
        try:
            await self.catch_up(instance)
        except InstanceError as error:
            logger.debug("{} gets writes of state later: {}", instance.host, error.message)


class MissedWrites:
    """The writes that one instance has still to get, in order.

    At most ``MAX_MISSED`` of them with ``MAX_MISSED_BYTES`` of bodies; beyond, the oldest are lost,
    and the log says which. A write makes an earlier one about the same file or setting needless,
    unless something was moved in between: a move needs what was there before it.
    """

    def __init__(self) -> None:
        self._writes: list[StateRequest] = []

    def __repr__(self) -> str:
        return f"<MissedWrites {len(self._writes)}>"

    def __len__(self) -> int:
        return len(self._writes)

    @property
    def first(self) -> StateRequest | None:
        """The one to be sent next."""
        return self._writes[0] if self._writes else None

    def add(self, write: StateRequest) -> None:
        """``write`` is the last one now."""
        if (earlier := self._needless(write)) is not None:
            self._writes.remove(earlier)
        self._writes.append(write)
        while len(self._writes) > MAX_MISSED or self._size() > MAX_MISSED_BYTES:
            lost = self._writes.pop(0)
            logger.warning("too many writes were missed: {} {} is lost", lost.method, lost.path)

    def done(self, write: StateRequest) -> None:
        """The instance has it (it may have become needless meanwhile)."""
        if write in self._writes:
            self._writes.remove(write)

    def _needless(self, write: StateRequest) -> StateRequest | None:
        for earlier in reversed(self._writes):
            if earlier.pattern == MOVE:
                return None
            if write.subject is not None and earlier.subject == write.subject:
                return earlier
        return None

    def _size(self) -> int:
        return sum(write.body.size for write in self._writes if write.body is not None)
