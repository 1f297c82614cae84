"""One ``POST /prompt`` to one instance, so that nothing runs twice (PROTOCOL.md trap 9)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Final

from aiohttp import hdrs, web
from multidict import CIMultiDict

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.planning.joining import kept_number
from comfy_proxy.cluster.prompt_answers import accepted_answer, read_accepted
from comfy_proxy.cluster.prompt_lists import history_path, number_of
from comfy_proxy.cluster.submit_once import GATEWAY_STATUSES
from comfy_proxy.dispatch.order import Receipt
from comfy_proxy.errors import InstanceError, InstanceUnreachableError
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.context import CONTEXT
from comfy_proxy.gateway.exchange.fanout import Answer, ask
from comfy_proxy.gateway.exchange.headers import request_headers
from comfy_proxy.gateway.exchange.scanned import ask_history, ask_queue
from comfy_proxy.gateway.prompts import prompt_body
from comfy_proxy.gateway.prompts.hung_prompts import is_paid_in_turns
from comfy_proxy.gateway.prompts.large_prompt import LARGE_BYTES
from comfy_proxy.ledger.prompt import ClientPost, PostHeaders, Prompt
from comfy_proxy.lenient_json import dumps_exact
from comfy_proxy.settings import Settings

SUBMIT_TIMEOUT_S = 120.0
"""Seconds that an instance has to answer a prompt; beyond it nobody knows whether it was taken. So
long, because ComfyUI's event loop may stand still before it takes one (PROTOCOL.md trap 8)."""

_PIECE_BYTES: Final = 262_144


def prompt_headers(
    request: web.Request, instance: Instance, settings: Settings
) -> CIMultiDict[str]:
    """The client's headers for ``instance``, less Content-Length, as the body may grow."""
    headers = request_headers(request, instance, settings)
    headers.popall(hdrs.CONTENT_LENGTH, None)
    return headers


def post_headers(
    request: web.Request, instances: Sequence[Instance], settings: Settings
) -> PostHeaders:
    """The client's headers for each of ``instances``, made once for all that get the same: they
    differ only where the user has another id, or where the operator gave credentials."""
    plain = next((one for one in instances if one.url.raw_user is None), instances[0])
    differing: Iterable[Instance] = ()
    if request[CONTEXT].user_at is not None:
        differing = instances
    elif hdrs.AUTHORIZATION in request.headers:
        differing = (one for one in instances if one.url.raw_user is not None)
    own = {one: prompt_headers(request, one, settings) for one in differing}
    return PostHeaders(prompt_headers(request, plain, settings), own)


def as_json(headers: PostHeaders) -> PostHeaders:
    """``headers`` of a request to another route, for a body of JSON that was made here."""
    own = {one: _as_json(given) for one, given in headers.own.items()}
    return PostHeaders(_as_json(headers.common), own)


def _as_json(headers: Mapping[str, str]) -> CIMultiDict[str]:
    kept = CIMultiDict(headers)
    for name in (hdrs.CONTENT_ENCODING, "Idempotency-Key"):
        kept.popall(name, None)
    kept[hdrs.CONTENT_TYPE] = "application/json"
    return kept


def sent(body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    """``data`` and ``headers`` of a request that sends ``body``: a large one in pieces, for asyncio
    moves all that is left of what was written at once after each piece that has gone."""
    if len(body) <= LARGE_BYTES:
        return {"data": body, "headers": headers}
    with_length = CIMultiDict(headers)
    with_length[hdrs.CONTENT_LENGTH] = str(len(body))
    return {"data": _pieces(body), "headers": with_length}


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), _PIECE_BYTES):
        yield body[at : at + _PIECE_BYTES]


def sent_body(prompt: Prompt, post: ClientPost, number: float | None) -> bytes:
    """The body of ``post`` with a ``number``, if it is to have one, for its place in the order.

    As the last key, which wins over one of the client's; ``front`` counts without it only. So with
    the id that an instance gave it: its client knows it by that.
    """
    body = post.body
    if number is not None:
        body = prompt_body.with_last(body, post.charset, "number", number)
    if not prompt.renamed:
        return body
    return prompt_body.with_last(body, post.charset, "prompt_id", prompt.prompt_id)


class ClientOrder:
    """Fills :class:`comfy_proxy.dispatch.order.Order`: a client's prompt.

    A new one goes on byte for byte, unless it is given a place in the queue; one that was accepted
    before keeps its id, and its number if its client chose that or it means the same place there.
    """

    unsure = InstanceError

    def __init__(self, prompt: Prompt, post: ClientPost, cluster: Cluster) -> None:
        self.prompt = prompt
        self._post = post
        self._cluster = cluster
        self._before: dict[Instance, Any] = {}  # what was in histories before it was posted

    async def post(self, instance: Instance, number: float | None) -> Receipt[Answer]:
        """The instance's own answer. Raises InstanceError, also for the answer of a server in
        front of it."""
        if self.prompt.reused and instance not in self._before:
            self._before[instance] = (await self._history(instance)).get(self.prompt.prompt_id)
        if number is None and self.prompt.accepted_at is not None:
            number = self._number_of_before(instance)
        post = self._post
        body = sent_body(self.prompt, post, number)
        answer = await ask(
            instance,
            self._cluster,
            "POST",
            post.path,
            **sent(body, post.headers[instance]),
            timeout_s=SUBMIT_TIMEOUT_S,
            replaceable=not await is_paid_in_turns(post.body),
        )
        if answer.status in GATEWAY_STATUSES:
            raise InstanceUnreachableError(f"{instance.host} answered {answer.status} to a prompt.")
        return _receipt(answer, self.prompt)

    def _number_of_before(self, instance: Instance) -> float | None:
        number = self.prompt.number
        if self.prompt.standing.fixed:
            return number
        return kept_number(self._cluster.planner.lines[instance], number)

    async def find(self, instance: Instance) -> Receipt[Answer] | None:
        """As if ``instance`` had just taken the prompt, if it has; None if it has not.

        Asked over new connections. Raises InstanceError if it does not say.
        """
        prompt_id = self.prompt.prompt_id
        if self.prompt.reused and instance not in self._before:
            return None  # it was not posted there
        queue = await ask_queue(instance, self._cluster, fresh=True)
        if queue is None:
            raise InstanceUnreachableError(f"{instance.host} has no usable queue.")
        for entry in (*queue.running, *queue.pending):
            if entry.prompt_id == prompt_id:
                return _receipt(_accepted(prompt_id, entry.number), self.prompt)
        history = await self._history(instance)
        if prompt_id not in history or history[prompt_id] == self._before.get(instance):
            return None
        number = number_of(history[prompt_id]) or self.prompt.number
        return _receipt(_accepted(prompt_id, number), self.prompt)

    async def _history(self, instance: Instance) -> dict[str, Any]:
        """What it has of the prompt's id. Raises InstanceError."""
        path = history_path(self.prompt.prompt_id)
        history = await ask_history(instance, self._cluster, path, fresh=True)
        if history is None:
            raise InstanceUnreachableError(f"{instance.host} has no usable history.")
        return history


def _receipt(answer: Answer, prompt: Prompt) -> Receipt[Answer]:
    """With the id and the number that the instance gave the prompt; its own where it gave none."""
    if answer.status != 200:
        return Receipt(answer=answer)
    told = read_accepted(native.load(answer))
    return Receipt(
        answer=answer,
        prompt_id=prompt.prompt_id if told.prompt_id is None else told.prompt_id,
        number=prompt.number if told.number is None else told.number,
    )


def _accepted(prompt_id: str, number: float) -> Answer:
    body = dumps_exact(accepted_answer(prompt_id, number))
    headers = CIMultiDict(
        {"Content-Type": "application/json; charset=utf-8", "Content-Length": str(len(body))}
    )
    return Answer(status=200, headers=headers, body=body)
