"""Answers requests of routes that no row of the table names (the policy ``custom``).

Who answers is decided by ``rules.py``; here it is asked. A body is received first and then sent,
because it may tell whom the request concerns, and may have to be sent to several.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Final

import aiohttp
from aiohttp import hdrs, web
from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.translation import nothing_sent
from comfy_proxy.errors import (
    InstanceError,
    InstanceTimeoutError,
    InstanceUnreachableError,
    UnavailableError,
)
from comfy_proxy.gateway.custom.question import Question
from comfy_proxy.gateway.custom.restarts import Restarts
from comfy_proxy.gateway.custom.rules import Addressed, How, Rules
from comfy_proxy.gateway.custom.told import Told
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.client_watch import while_connected
from comfy_proxy.gateway.exchange.context import CONTEXT
from comfy_proxy.gateway.exchange.fanout import Answer, ask, nobody_answers
from comfy_proxy.gateway.exchange.first_found import first_found
from comfy_proxy.gateway.exchange.forward import forward, forward_balanced, forward_unless
from comfy_proxy.gateway.exchange.headers import is_websocket_upgrade, request_headers
from comfy_proxy.gateway.exchange.websocket import forward_websocket
from comfy_proxy.gateway.routes import Match

LATE_S: Final = 5.0
"""Seconds that a request to all waits for the others before the primary is asked. Who is later is
cut off and counts as not told: graphs that name what the others were told do not run there."""
MAX_TOLD_PATHS: Final = 1_000
"""So many paths are remembered of which the log was told that the primary alone answers them."""
_CHANGING = frozenset({hdrs.METH_POST, hdrs.METH_PUT, hdrs.METH_PATCH})


class CustomRoutes:
    """``told`` is what instances have been told; ``restarts`` has them run empty first."""

    def __init__(self, cluster: Cluster, rules: Rules, told: Told, restarts: Restarts) -> None:
        self._cluster = cluster
        self._rules = rules
        self._told = told
        self._restarts = restarts
        self._logged: OrderedDict[str, None] = OrderedDict()

    async def answer(self, request: web.Request, match: Match) -> web.StreamResponse:
        """Answer ``request`` as the rules say.

        Raises AmbiguousRequestError (409), UnavailableError (503) if the only one who can answer is
        away, and what forwarding raises.
        """
        rules = self._rules
        asked = Question.of(request, self._cluster.settings, rules.marks, rules.rows.for_all)
        if request.body_exists:
            with while_connected(request):
                question = await asked
        else:
            question = await asked
        try:
            addressed = self._rules.decide(question)
            self._tell(question, addressed)
            await self._rules.listen(question, addressed)
            return await self._answered(question, addressed)
        finally:
            question.close()

    async def close(self) -> None:
        """End what was begun."""
        await self._restarts.close()

    async def _answered(self, question: Question, addressed: Addressed) -> web.StreamResponse:
        if is_websocket_upgrade(question.request):
            return await self._socket(question, addressed)
        match addressed.how:
            case How.ALL if question.body is None or question.body.whole:
                return await self._all(question, addressed)
            case How.FIRST_FOUND:
                return await self._first_found(question, addressed.instances)
            case How.ONE:
                return await self._one(question, addressed, addressed.instances[0])
            case How.RESTART:
                instance = await self._cluster.primary()
                async with self._restarts.empty(instance):
                    return await self._one(question, addressed, instance)
        return await forward_balanced(
            question.request, self._cluster, partial(self._sent, question, addressed)
        )

    # --- one ---------------------------------------------------------------------------------

    async def _sent(
        self,
        question: Question,
        addressed: Addressed,
        request: web.Request,
        instance: Instance,
        cluster: Cluster,
    ) -> web.StreamResponse:
        """This instance's answer; what it was told with success is remembered."""
        body = question.sent_body(addressed.raw)
        answer = await forward(request, instance, cluster, target=addressed.target, body=body)
        if answer.status < 400 and question.method in _CHANGING:
            self._told.note(question.words, [instance])
        return answer

    async def _one(
        self, question: Question, addressed: Addressed, instance: Instance
    ) -> web.StreamResponse:
        try:
            if await self._cluster.healthy([instance]):
                return await self._sent(
                    question, addressed, question.request, instance, self._cluster
                )
        except InstanceError as error:
            if not nothing_sent(error):
                raise  # nobody knows whether it was done: not to be tried again just so
        raise UnavailableError(
            f"ComfyUI instance {instance.id}, which this request concerns ({addressed.rule}),"
            " cannot be reached.",
            retry_after_s=5,
        )

    async def _socket(self, question: Question, addressed: Addressed) -> web.StreamResponse:
        """A WebSocket of a custom node stays at one instance."""
        if addressed.how is How.ONE:
            instance = addressed.instances[0]
            return await forward_websocket(question.request, instance, self._cluster)
        return await forward_balanced(question.request, self._cluster, forward_websocket)

    # --- several -----------------------------------------------------------------------------

    async def _first_found(
        self, question: Question, instances: Sequence[Instance]
    ) -> web.StreamResponse:
        """Of those that can be reached the first that has it; if nobody has, the last one's 404."""
        request, cluster = question.request, self._cluster
        left = [one for one in instances if one.healthy] or list(instances)
        # Once it was sent to one it goes to no other: nobody knows what it does, and if it ends
        # the process its connection breaks off.
        found, missing = await first_found(request, cluster, left[:-1], pass_over=nothing_sent)
        if found is not None:
            return found
        try:
            return await forward(request, left[-1], cluster)
        except InstanceError as error:
            if not (missing and nothing_sent(error)):
                raise
            return web.Response(status=404)  # as those have said that could be reached

    async def _all(self, question: Question, addressed: Addressed) -> web.StreamResponse:
        """All healthy instances do it, the primary last: its answer is passed on as it comes, if it
        has succeeded, or if none has; else that of the first other one that has."""
        healthy = await self._cluster.healthy(addressed.instances)
        if not healthy:
            raise nobody_answers()
        primary, *others = healthy
        with while_connected(question.request):
            answers = await self._asked(question, addressed, others)
        done = [one for one in others if one in answers and answers[one].status < 400]

        def refuse(upstream: aiohttp.ClientResponse) -> bool:
            return bool(done) and upstream.status >= 400

        answer = None
        try:
            answer = await forward_unless(
                question.request,
                primary,
                self._cluster,
                refuse,
                target=addressed.target,
                body=question.sent_body(addressed.raw),
            )
        except (InstanceUnreachableError, InstanceTimeoutError):
            if not done:
                raise
        if answer is not None and answer.status < 400:
            done.insert(0, primary)
        if done and question.method in _CHANGING:
            self._told.note(question.words, done)
        if answer is not None:
            return answer
        question.request[CONTEXT].instance = done[0].host
        return native.relayed(answers[done[0]])

    async def _asked(
        self, question: Question, addressed: Addressed, instances: Sequence[Instance]
    ) -> dict[Instance, Answer]:
        """What each says that answers within ``LATE_S``."""
        asking = {
            asyncio.create_task(self._ask(question, addressed, one)): one for one in instances
        }
        if not asking:
            return {}
        try:
            done, _ = await asyncio.wait(asking, timeout=LATE_S)
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        told = {asking[task]: task.result() for task in done}
        return {one: answer for one, answer in told.items() if answer is not None}

    async def _ask(
        self, question: Question, addressed: Addressed, instance: Instance
    ) -> Answer | None:
        """None if it fails."""
        headers = request_headers(question.request, instance, self._cluster.settings)
        body = question.sent_body(addressed.raw)
        if body is not None and hdrs.CONTENT_LENGTH in headers:
            headers[hdrs.CONTENT_LENGTH] = str(body.size)
        try:
            return await ask(
                instance,
                self._cluster,
                question.method,
                addressed.target or question.target,
                headers=headers,
                client_body=None if body is None else body.rest,
                data=None if body is None else body.chunks(),
            )
        except InstanceError as error:
            logger.debug("instance {}: {}", instance.host, error.message)
            return None

    # --- what is said of it ------------------------------------------------------------------

    def _tell(self, question: Question, addressed: Addressed) -> None:
        logger.debug("{} {} goes to {}", question.method, question.path, addressed)
        changes = question.method not in (hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS)
        if addressed.how is not How.PRIMARY or not changes:
            return
        path = f"{question.method} {question.path}"
        if path in self._logged:
            return
        self._logged[path] = None
        if len(self._logged) > MAX_TOLD_PATHS:
            self._logged.popitem(last=False)
        logger.info(
            "{} is answered by the first instance alone: nothing tells which one it concerns. A row"
            " in ROUTES_FILE can say otherwise.",
            path,
        )
