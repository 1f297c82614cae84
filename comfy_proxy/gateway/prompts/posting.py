"""One ``POST /prompt`` to one instance, in such a way that nothing runs twice (trap 9)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs, web
from multidict import CIMultiDict

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_answers import accepted_answer
from comfy_proxy.cluster.prompt_lists import history_path, number_of
from comfy_proxy.cluster.retry_law import Tries
from comfy_proxy.cluster.submit_once import GATEWAY_STATUSES, submit_once
from comfy_proxy.errors import InstanceUnreachableError, ProcessEndedError
from comfy_proxy.gateway.exchange.fanout import Answer, ask
from comfy_proxy.gateway.exchange.headers import request_headers
from comfy_proxy.gateway.exchange.scanned import ask_history, ask_queue
from comfy_proxy.gateway.prompts import prompt_body
from comfy_proxy.lenient_json import dumps_exact
from comfy_proxy.tracing import TRACE, Trace, about, traced

if TYPE_CHECKING:
    from comfy_proxy.gateway.gateway import Gateway

SUBMIT_TIMEOUT_S = 120.0
"""A busy event loop may stand still for long before it takes the prompt (trap 8)."""


@dataclass(kw_only=True, slots=True, eq=False)
class ForwardedPrompt:
    """A prompt that a client posted. ``headers`` differ where an instance has credentials.

    ``instance`` is where it waits or runs (``began``), ``number`` the one that it got there.
    ``settled``: it is not to be moved any more. ``renamed``: it got another id there than the body
    has, whose charset is ``charset``. ``trace`` is that of the request that brought it.
    ``node`` is the one that ran when the socket to its instance was lost, ``tries`` what it has
    been through, ``fatal`` the error that ends it after one loss too many. ``sent_at`` is when it
    was sent to ``instance`` (monotonic). ``over``: by the length of the queue there it has ended,
    though nobody has heard how.
    """

    prompt_id: str
    path: str
    body: bytes = field(repr=False)
    charset: str = prompt_body.UTF_8
    graph: Mapping[str, Any] = field(repr=False)
    client_id: str | None
    headers: Mapping[Instance, CIMultiDict[str]] = field(repr=False)
    instance: Instance | None = None
    settled: bool = False
    renamed: bool = False
    began: bool = False
    number: float = 0
    trace: Trace | None = field(default_factory=TRACE.get, repr=False)
    node: str | None = None
    tries: Tries = field(default_factory=Tries)
    fatal: ProcessEndedError | None = None
    sent_at: float = 0
    over: bool = False

    @contextmanager
    def context(self) -> Iterator[None]:
        """Inside the block log lines are about it, and requests are on behalf of its own."""
        with traced(self.trace), about(prompt_id=self.prompt_id):
            yield

    @property
    def movable(self) -> bool:
        """It waits, as far as is known, and nothing speaks against another place."""
        return not (self.began or self.settled)

    def with_number(self, number: float) -> bytes:
        """The body with the ``number`` that the prompt has, to keep its place in the order.

        As the last key, which wins over one of the client's; ``front`` counts without it only. So
        with the id that an instance gave it: its client knows it by that.
        """
        body = prompt_body.with_last(self.body, self.charset, "number", number)
        if not self.renamed:
            return body
        return prompt_body.with_last(body, self.charset, "prompt_id", self.prompt_id)


def prompt_headers(request: web.Request, instance: Instance, gateway: Gateway) -> CIMultiDict[str]:
    """The client's headers for ``instance``, less Content-Length, as the body may grow."""
    headers = request_headers(request, instance, gateway.cluster.settings)
    headers.popall(hdrs.CONTENT_LENGTH, None)
    return headers


async def post(
    prompt: ForwardedPrompt, instance: Instance, gateway: Gateway, body: bytes
) -> Answer:
    """Have ``instance`` take the prompt; its answer, or one like it if that was lost on the way.

    Raises as :func:`submit_once` does.
    """
    prompt.sent_at, prompt.over = gateway.cluster.clock.monotonic(), False

    async def post_it() -> Answer:
        answer = await ask(
            instance,
            gateway.cluster,
            "POST",
            prompt.path,
            data=body,
            headers=prompt.headers[instance],
            timeout_s=SUBMIT_TIMEOUT_S,
        )
        if answer.status in GATEWAY_STATUSES:
            raise InstanceUnreachableError(f"{instance.host} answered {answer.status} to a prompt.")
        return answer

    return await submit_once(
        post_it, lambda: find(prompt, instance, gateway), clock=gateway.cluster.clock
    )


async def find(prompt: ForwardedPrompt, instance: Instance, gateway: Gateway) -> Answer | None:
    """As if ``instance`` had just taken the prompt, if it has; None if it has not.

    Asked over new connections. Raises InstanceError if it does not say.
    """
    queue = await ask_queue(instance, gateway.cluster, fresh=True)
    if queue is None:
        raise InstanceUnreachableError(f"{instance.host} has no usable queue.")
    for entry in (*queue.running, *queue.pending):
        if entry.prompt_id == prompt.prompt_id:
            return _accepted(prompt.prompt_id, entry.number)
    path = history_path(prompt.prompt_id)
    history = await ask_history(instance, gateway.cluster, path, fresh=True)
    if history is None:
        raise InstanceUnreachableError(f"{instance.host} has no usable history.")
    if prompt.prompt_id not in history:
        return None
    return _accepted(prompt.prompt_id, number_of(history[prompt.prompt_id]))


def _accepted(prompt_id: str, number: float) -> Answer:
    body = dumps_exact(accepted_answer(prompt_id, number))
    headers = CIMultiDict(
        {"Content-Type": "application/json; charset=utf-8", "Content-Length": str(len(body))}
    )
    return Answer(status=200, headers=headers, body=body)
