"""Users, settings and userdata: on every instance's disk, and the same for clients.

* Reads come from the primary instance, whole and untouched, after it got the writes that it missed.
* A write goes to the primary first; its answer is the client's. If it succeeded every other
  instance gets the same write, in the same order: writes go to the primary one after the other.
  The client waits for the others for ``PATIENCE_S``; who needs longer gets it after the answer
  (``replication.py``). ``overwrite=false`` is taken out for them: what the primary has accepted is
  to be everywhere.
* Users of ``--multi-user`` instances: see ``user_ids.py``.

Instances that differed before the proxy was put in front of them are not compared, and stay so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from contextvars import Context
from dataclasses import replace
from typing import Any, TypeVar

from aiohttp import hdrs, web
from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.hang_watch import InstanceHangsError
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.translation import nothing_sent
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.context import CONTEXT, USER_HEADER
from comfy_proxy.gateway.exchange.fanout import Answer
from comfy_proxy.gateway.exchange.forward import forward, forward_balanced
from comfy_proxy.gateway.routes import Match
from comfy_proxy.gateway.state.replication import Replication
from comfy_proxy.gateway.state.requests import (
    USERS,
    StateRequest,
    spooled,
    state_request,
)
from comfy_proxy.gateway.state.user_ids import UserIds
from comfy_proxy.tracing import untraced

PATIENCE_S = 1.0
"""How long a client waits for the other instances to take its write, and to tell their users."""
SMALLEST_LIMIT = 104_857_600
"""Bytes of a body that are always taken: ComfyUI's own default for the largest. A larger body is
413, unless ``MAX_UPLOAD_SIZE`` allows more."""
_READS = (hdrs.METH_GET, hdrs.METH_HEAD)

T = TypeVar("T")


class SharedState:
    """Keeps the instances' disks in step; :meth:`close` at the end.

    Whoever makes it calls :meth:`heard` and :meth:`interrupted` when they happen.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.users = UserIds(cluster)
        self._order = asyncio.Lock()
        self._replication = Replication(cluster, self.users)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._learning: asyncio.Task[None] | None = None
        self._late: asyncio.Task[None] | None = None  # the one that was waited for in vain

    # --- requests ----------------------------------------------------------------------

    def missed(self, instance: Instance) -> int:
        """How many writes ``instance`` has still to get."""
        return self._replication.missed(instance)

    async def know_user(self, request: web.Request) -> None:
        """From now on ``request`` goes to each instance as the user that its client is there.

        Once an instance was too slow to tell its users, nobody waits for that any more.
        """
        if not request.headers.get(USER_HEADER):
            return
        if self._late is None or self._late.done():
            await self._know_users()
        request[CONTEXT].user_at = self.users.at

    async def answer(self, request: web.Request, match: Match) -> web.StreamResponse:
        """Answer ``/users``, ``/settings``, ``/userdata`` and what is below them."""
        if request.method in _READS:
            return await self.read(request, match)
        return await self.write(request, match)

    async def read(self, request: web.Request, match: Match) -> web.StreamResponse:
        """From the primary, or the next one that answers; each brought up to date before."""
        if USER_HEADER in request.headers or match.pattern == USERS:
            await self._know_users()

        async def one(
            request: web.Request, instance: Instance, cluster: Cluster
        ) -> web.StreamResponse:
            await self._replication.catch_up(instance)
            if not self._is_translated(request, match, instance):
                return await forward(request, instance, cluster, replaceable=True)
            asked = state_request(request, match, instance, cluster, None)
            reply = await self._replication.send(asked, instance)
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

    # --- hooks -------------------------------------------------------------------------

    def heard(self, instance: Instance) -> None:
        """For ``health_checker.on_success``: bring it up to date in the background."""
        if self.missed(instance) and not self._replication.is_catching_up(instance):
            self._start(self._replication.try_to_catch_up(instance))

    def interrupted(self, instance: Instance) -> None:
        """For ``instance.on_interruption``: it may know other users now."""
        self.users.forget(instance)

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
            others = [one for one in repeated if one is not primary and not one.left]
            if reply.status >= 400:
                return reply, primary
            for instance in others:
                self._replication.add(repeated[instance], instance)
            if first[primary].pattern == USERS:
                await self.users.minted_at(primary)
        await self._told(others)
        return reply, primary

    async def _at_primary(
        self, requests: Mapping[Instance, StateRequest]
    ) -> tuple[Answer, Instance]:
        """The write at the first instance that is up to date and can be reached."""
        passed_over: list[Instance] = []
        while True:
            joined = [one for one in self._cluster.instances if one not in requests]
            instance = await self._cluster.primary([*passed_over, *joined])
            try:
                await self._replication.catch_up(instance)
            except InstanceError:  # nothing of this write was sent
                passed_over.append(instance)
                continue
            try:
                return await self._replication.send(requests[instance], instance), instance
            except InstanceError as error:
                # One that hangs may do it yet, and gets it once more, after the others.
                again = isinstance(error, InstanceHangsError) and requests[instance].repeatable
                if not (again or nothing_sent(error)):
                    raise
                passed_over.append(instance)

    async def _told(self, instances: list[Instance]) -> None:
        """Return when the healthy ones have got all that they missed, or patience ends."""
        catch_up = self._replication.try_to_catch_up
        tasks = [self._start(catch_up(one)) for one in instances if one.healthy]
        try:
            async with self._cluster.clock.timeout(PATIENCE_S):
                await asyncio.gather(*map(asyncio.shield, tasks))
        except TimeoutError:
            logger.debug("some instances get a write of state later")

    async def _know_users(self) -> None:
        """Who is who, as far as the instances tell it in a moment."""
        if self._learning is None or self._learning.done():
            self._learning = self._start(self.users.learn(), context=untraced())
        try:
            async with self._cluster.clock.timeout(PATIENCE_S):
                await asyncio.shield(self._learning)
        except TimeoutError:
            self._late = self._learning
            logger.debug("some instances tell their users later")

    def _is_translated(self, request: web.Request, match: Match, instance: Instance) -> bool:
        if match.pattern == USERS:
            return self.users.renames(instance)
        user_id = request.headers.get(USER_HEADER)
        return user_id is not None and self.users.at(instance, user_id) != user_id

    def _with_public_ids(self, reply: Answer) -> Answer:
        body = self.users.public(reply.body)
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
    request[CONTEXT].instance = instance.host
    return native.relayed(reply)
