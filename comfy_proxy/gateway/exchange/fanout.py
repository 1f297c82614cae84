"""Ask an instance, or several at once, and keep what each answered.

For answers that are looked at or put together here (lists, queues): read whole, bounded. What
belongs to one instance is streamed by ``forward.py`` instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import aiohttp
from aiohttp import hdrs
from multidict import CIMultiDict

from comfy_proxy.bodies import ClientBody
from comfy_proxy.cluster import answer_bodies
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import AnswerTooLargeError, InstanceError, NoHealthyInstanceError
from comfy_proxy.gateway.exchange.blame import told_apart
from comfy_proxy.gateway.exchange.forward import AUTO_HEADERS
from comfy_proxy.gateway.exchange.headers import response_headers, sendable
from comfy_proxy.gateway.exchange.target import address
from comfy_proxy.lenient_json import loads
from comfy_proxy.tracing import trace_headers

T = TypeVar("T")

ASK_TIMEOUT_S = 30.0
AT_ONCE = 16
"""Questions that begin in one turn of the event loop, where all instances are asked; that takes
some 3 ms. The next ones begin in its next turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """What one instance said, its body apart; ``headers`` as a client is to see them."""

    status: int
    reason: str = ""
    headers: CIMultiDict[str] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer(Head):
    """What one instance said, whole."""

    body: bytes = field(repr=False)

    def json(self) -> Any:
        """The body as JSON; None where it is none."""
        try:
            return loads(self.body)
        except ValueError:
            return None


async def ask(
    instance: Instance,
    cluster: Cluster,
    method: str,
    path: str,
    *,
    kind: str = "ask",
    timeout_s: float | None = ASK_TIMEOUT_S,
    replaceable: bool = False,
    client_body: ClientBody | None = None,
    **options: Any,
) -> Answer:
    """One exchange with ``instance``, an attempt of that ``kind``; ``options`` are aiohttp's.

    ``path`` is encoded, may carry a query, and is asked for as it stands. ``headers`` among the
    options are a client's: what it did not send is not added. ``client_body`` is read while the
    request is sent, if what is sent comes from the client. ``replaceable`` as of
    :meth:`HangWatch.over`, ``fresh`` as of :meth:`ConnectionManager.request`. Raises InstanceError,
    and what ``client_body`` raises.
    """
    hang_watch = cluster.hang_watch.over(instance, replaceable=replaceable)
    with hang_watch, instance.attempt(kind), told_apart(instance, client_body):
        async with (
            _in_time(cluster, timeout_s),
            asked(instance, cluster, method, path, **options) as response,
        ):
            return Answer(
                status=response.status,
                reason=sendable(response.reason or ""),
                headers=response_headers(response, instance, cluster.settings),
                body=await answer_bodies.read(response, answer_bodies.MAX_JSON_BYTES),
            )


@asynccontextmanager
async def asked(
    instance: Instance,
    cluster: Cluster,
    method: str,
    path: str,
    *,
    head_timeout_s: float | None = None,
    **options: Any,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The answer to what :func:`ask` describes, its body still to be read, in no coding.

    The one place that asks instances for what is read here, and not only passed on. Raises
    aiohttp's errors.
    """
    if "headers" in options:
        options["skip_auto_headers"] = AUTO_HEADERS
    headers: CIMultiDict[str] = CIMultiDict(options.pop("headers", ()))
    if "X-Request-ID" not in headers:  # else it is a client's own, and so is its trace
        headers.extend(trace_headers())
    headers[hdrs.ACCEPT_ENCODING] = "identity"  # the session hands out bytes as they come
    async with _in_time(cluster, head_timeout_s):
        response = await cluster.connections.request(
            instance,
            method,
            address(instance, path),
            headers=headers,
            allow_redirects=False,
            **options,
        )
    async with response:
        yield response


def _in_time(cluster: Cluster, timeout_s: float | None) -> AbstractAsyncContextManager[Any]:
    return nullcontext() if timeout_s is None else cluster.clock.timeout(timeout_s)


async def ask_all(
    cluster: Cluster,
    method: str,
    path: str,
    *,
    instances: Iterable[Instance] | None = None,
    **options: Any,
) -> dict[Instance, Answer]:
    """Ask each healthy instance (of ``instances``, or of all); those that fail are left out.

    If none of these answers, the others are asked as far as they are found again.
    Raises NoHealthyInstanceError if nobody answers, AnswerTooLargeError if one says more than can
    be put together: it is there, and an answer without its part would be wrong.
    """
    return await answers_of_all(
        cluster,
        lambda instance: ask(instance, cluster, method, path, replaceable=True, **options),
        instances,
    )


async def ask_each(
    cluster: Cluster, method: str, path: str, asked: Mapping[Instance, Mapping[str, Any]]
) -> dict[Instance, Answer]:
    """Ask each key of ``asked`` with options of its own; those that fail are left out.

    Raises AnswerTooLargeError.
    """
    return await _answers_of_each(
        lambda instance: ask(instance, cluster, method, path, replaceable=True, **asked[instance]),
        asked,
    )


async def answers_of_all(
    cluster: Cluster,
    question: Callable[[Instance], Coroutine[Any, Any, T]],
    instances: Iterable[Instance] | None = None,
) -> dict[Instance, T]:
    """What each says to ``question``; see :func:`ask_all`."""
    left = list(cluster.instances if instances is None else instances)
    while asked := await cluster.healthy(left):
        if answers := await _answers_of_each(question, asked):
            return answers
        left = [one for one in left if one not in asked]
    raise nobody_answers()


def nobody_answers() -> NoHealthyInstanceError:
    """The error for a client whose question reached no instance."""
    return NoHealthyInstanceError("No ComfyUI instance answers.", retry_after_s=5)


async def _answers_of_each(
    question: Callable[[Instance], Coroutine[Any, Any, T]], instances: Iterable[Instance]
) -> dict[Instance, T]:
    asked = list(instances)
    results = await _begun_in_turns([partial(question, instance) for instance in asked])
    answers: dict[Instance, T] = {}
    for instance, result in zip(asked, results, strict=True):
        if not isinstance(result, BaseException):
            answers[instance] = result
        elif isinstance(result, AnswerTooLargeError) or not isinstance(result, InstanceError):
            raise result
    return answers


async def _begun_in_turns(
    questions: Sequence[Callable[[], Coroutine[Any, Any, T]]],
) -> list[T | BaseException]:
    """What each question comes to, or raises, in their order. After every AT_ONCE of them that have
    begun the event loop has its turn: to begin those of 300 instances takes 50 ms."""
    tasks: list[asyncio.Task[T]] = []
    try:
        for begun, question in enumerate(questions, 1):
            tasks.append(asyncio.create_task(question()))
            if begun % AT_ONCE == 0:
                await asyncio.sleep(0)
        return await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        for task in tasks:
            task.cancel()
