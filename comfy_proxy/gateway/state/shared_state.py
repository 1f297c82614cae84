"""Users, settings and userdata: on every instance's disk, and the same for clients.

* Reads come from the primary instance, whole and untouched.
* A write goes to the primary first; its answer is the client's. If it succeeded every other
  instance gets the same write, in the same order: all writes pass one door. The client waits for
  the others a moment (``PATIENCE_S``), then they are told behind its back.
* An instance that was not reached has missed writes. They are kept, in order and bounded, and it
  gets them when a health check passes, or at the latest before it serves a read or takes a write.
  ``overwrite=false`` is taken out then: what the primary has accepted is to be everywhere.
* Users of ``--multi-user`` instances: see ``user_ids.py``.

Not covered: what was missed is in memory, so after a restart of the proxy an instance that comes up
later than the others keeps what it has. Nor are instances compared that differed from the start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from contextvars import Context
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from aiohttp import hdrs, web
from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.translation import nothing_sent
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.context import INSTANCE
from comfy_proxy.gateway.exchange.fanout import Answer
from comfy_proxy.gateway.exchange.forward import forward, forward_balanced
from comfy_proxy.gateway.routes import Match
from comfy_proxy.gateway.state.requests import (
    USER_HEADER,
    USERS,
    MissedWrites,
    StateRequest,
    send,
    spooled,
    state_request,
)
from comfy_proxy.gateway.state.user_ids import UserIds
from comfy_proxy.tracing import untraced

PATIENCE_S = 1.0
SMALLEST_LIMIT = 104_857_600
"""ComfyUI's own default for the largest body."""
_READS = (hdrs.METH_GET, hdrs.METH_HEAD)

T = TypeVar("T")


class HasState(Protocol):
    """The part of the gateway that is used here."""

    @property
    def state(self) -> SharedState: ...


async def state(request: web.Request, match: Match, gateway: HasState) -> web.StreamResponse:
    """Answer ``/users``, ``/settings``, ``/userdata`` and what is below them."""
    if request.method in _READS:
        return await gateway.state.read(request, match)
    return await gateway.state.write(request, match)


class SharedState:
    """Keeps the instances' disks in step. Whoever makes it closes it; see the hooks."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._users = UserIds(cluster)
        self._order = asyncio.Lock()
        self._missed = {instance: MissedWrites() for instance in cluster.instances}
        self._catching_up = {instance: asyncio.Lock() for instance in cluster.instances}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._learning: asyncio.Task[None] | None = None

    # --- questions ---------------------------------------------------------------------

    def missed(self, instance: Instance) -> int:
        """How many writes ``instance`` has still to get."""
        return len(self._missed[instance])

    async def read(self, request: web.Request, match: Match) -> web.StreamResponse:
        """From the primary, or the next one that answers; each brought up to date before."""
        if USER_HEADER in request.headers or match.pattern == USERS:
            await self._know_users()

        async def one(
            request: web.Request, instance: Instance, cluster: Cluster
        ) -> web.StreamResponse:
            await self.catch_up(instance)
            if not self._is_translated(request, match, instance):
                return await forward(request, instance, cluster)
            asked = self._addressed(
                state_request(request, match, instance, cluster, None), instance
            )
            reply = await send(asked, instance, cluster)
            if match.pattern == USERS and reply.status == 200 and reply.body:
                reply = self._with_public_ids(reply)
            return _answer(request, reply, instance)

        return await forward_balanced(request, self._cluster, one)

    async def write(self, request: web.Request, match: Match) -> web.StreamResponse:
        """To the primary, then to all others; the primary's answer.

        A client that leaves in the middle does not end it: what one instance has done all do.
        """
        limit = max(self._cluster.settings.max_upload_size, SMALLEST_LIMIT)
        body = await spooled(request, limit)
        if USER_HEADER in request.headers:
            await self._know_users()
        first, repeated = (
            {
                instance: state_request(
                    request, match, instance, self._cluster, body, repeated=again
                )
                for instance in self._cluster.instances
            }
            for again in (False, True)
        )
        reply, instance = await asyncio.shield(self._start(self._write(first, repeated)))
        return _answer(request, reply, instance)

    async def catch_up(self, instance: Instance) -> None:
        """Tell ``instance`` what it has missed. Raises InstanceError if it does not answer.

        A refusal is an answer: a file to be deleted may never have been there.
        """
        missed = self._missed[instance]
        async with self._catching_up[instance]:
            while (write := missed.first) is not None:
                reply = await send(self._addressed(write, instance), instance, self._cluster)
                missed.done(write)
                if write.pattern == USERS:  # before a write of that user comes
                    await self._users.ask_again(instance)
                if reply.status >= 400:
                    logger.log(
                        "WARNING" if reply.status >= 500 else "DEBUG",
                        "{} answered {} to a write that it had missed: {} {}",
                        *(
                            instance.host,
                            reply.status,
                            write.method,
                            write.path,
                        ),
                    )

    # --- hooks -------------------------------------------------------------------------

    def heard(self, instance: Instance) -> None:
        """For ``health_checker.on_success``: bring it up to date in the background."""
        if self.missed(instance) and not self._catching_up[instance].locked():
            self._start(self._try_to_catch_up(instance))

    def interrupted(self, instance: Instance) -> None:
        """For ``instance.on_interruption``: it may know other users now."""
        self._users.forget(instance)

    async def close(self) -> None:
        """End what is still under way."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # --- inside ------------------------------------------------------------------------

    async def _write(
        self,
        first: Mapping[Instance, StateRequest],
        repeated: Mapping[Instance, StateRequest],
    ) -> tuple[Answer, Instance]:
        async with self._order:
            reply, primary = await self._at_primary(first)
            others = [i for i in self._cluster.instances if i is not primary]
            if reply.status >= 400:
                return reply, primary
            for instance in others:
                self._missed[instance].add(repeated[instance])
            if first[primary].pattern == USERS:
                await self._users.minted_at(primary)
        await self._told(others)
        return reply, primary

    async def _at_primary(
        self, requests: Mapping[Instance, StateRequest]
    ) -> tuple[Answer, Instance]:
        """The write at the first instance that is up to date and can be reached."""
        passed_over: list[Instance] = []
        while True:
            instance = await self._cluster.primary(passed_over)
            try:
                await self.catch_up(instance)
            except InstanceError:  # nothing of this write was sent
                passed_over.append(instance)
                continue
            try:
                asked = self._addressed(requests[instance], instance)
                return await send(asked, instance, self._cluster), instance
            except InstanceError as error:
                if not nothing_sent(error):
                    raise
                passed_over.append(instance)

    async def _told(self, instances: list[Instance]) -> None:
        """Return when the healthy ones have got all that they missed, or patience ends."""
        tasks = [self._start(self._try_to_catch_up(i)) for i in instances if i.healthy]
        try:
            async with self._cluster.clock.timeout(PATIENCE_S):
                await asyncio.gather(*map(asyncio.shield, tasks))
        except TimeoutError:
            logger.debug("some instances get a write of state later")

    async def _know_users(self) -> None:
        """Who is who, as far as the instances tell it in a moment."""
        if self._learning is None or self._learning.done():
            self._learning = self._start(self._users.learn(), context=untraced())
        try:
            async with self._cluster.clock.timeout(PATIENCE_S):
                await asyncio.shield(self._learning)
        except TimeoutError:
            logger.debug("some instances tell their users later")

    async def _try_to_catch_up(self, instance: Instance) -> None:
        try:
            await self.catch_up(instance)
        except InstanceError as error:
            logger.debug("{} gets writes of state later: {}", instance.host, error.message)

    def _addressed(self, write: StateRequest, instance: Instance) -> StateRequest:
        """``write`` with the id that ``instance`` has for the user, known at the last moment."""
        user_id = write.headers.get(USER_HEADER)
        return write if user_id is None else write.by(self._users.at(instance, user_id))

    def _is_translated(self, request: web.Request, match: Match, instance: Instance) -> bool:
        if match.pattern == USERS:
            return self._users.renames(instance)
        user_id = request.headers.get(USER_HEADER)
        return user_id is not None and self._users.at(instance, user_id) != user_id

    def _with_public_ids(self, reply: Answer) -> Answer:
        body = self._users.public(reply.body)
        headers = reply.headers.copy()
        headers[hdrs.CONTENT_LENGTH] = str(len(body))
        return replace(reply, headers=headers, body=body)

    def _start(
        self, work: Coroutine[Any, Any, T], *, context: Context | None = None
    ) -> asyncio.Task[T]:
        task = asyncio.create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _answer(request: web.Request, reply: Answer, instance: Instance) -> web.StreamResponse:
    request[INSTANCE] = instance.host
    return native.relayed(reply)
