"""One ``POST /prompt`` to one instance, so that nothing runs twice (PROTOCOL.md trap 9)."""

from __future__ import annotations

from aiohttp import hdrs, web
from multidict import CIMultiDict

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_answers import accepted_answer
from comfy_proxy.cluster.prompt_lists import history_path, number_of
from comfy_proxy.cluster.submit_once import GATEWAY_STATUSES, submit_once
from comfy_proxy.errors import InstanceUnreachableError
from comfy_proxy.gateway.exchange.fanout import Answer, ask
from comfy_proxy.gateway.exchange.headers import request_headers
from comfy_proxy.gateway.exchange.scanned import ask_history, ask_queue
from comfy_proxy.gateway.prompts import prompt_body
from comfy_proxy.ledger.prompt import ClientPost, Prompt
from comfy_proxy.lenient_json import dumps_exact
from comfy_proxy.settings import Settings

SUBMIT_TIMEOUT_S = 120.0
"""Seconds that an instance has to answer a prompt; beyond it nobody knows whether it was taken. So
long, because ComfyUI's event loop may stand still before it takes one (PROTOCOL.md trap 8)."""


def prompt_headers(
    request: web.Request, instance: Instance, settings: Settings
) -> CIMultiDict[str]:
    """The client's headers for ``instance``, less Content-Length, as the body may grow."""
    headers = request_headers(request, instance, settings)
    headers.popall(hdrs.CONTENT_LENGTH, None)
    return headers


def numbered_body(prompt: Prompt, post: ClientPost, number: float) -> bytes:
    """The body of ``post`` with the ``number`` that the prompt has, to keep its place in the order.

    As the last key, which wins over one of the client's; ``front`` counts without it only. So with
    the id that an instance gave it: its client knows it by that.
    """
    body = prompt_body.with_last(post.body, post.charset, "number", number)
    if not prompt.renamed:
        return body
    return prompt_body.with_last(body, post.charset, "prompt_id", prompt.prompt_id)


async def post_prompt(
    prompt: Prompt, post: ClientPost, instance: Instance, cluster: Cluster, body: bytes
) -> Answer:
    """Have ``instance`` take the prompt; its answer, or one like it if that was lost on the way.

    Raises as :func:`submit_once` does.
    """

    async def post_it() -> Answer:
        answer = await ask(
            instance,
            cluster,
            "POST",
            post.path,
            data=body,
            headers=post.headers[instance],
            timeout_s=SUBMIT_TIMEOUT_S,
        )
        if answer.status in GATEWAY_STATUSES:
            raise InstanceUnreachableError(f"{instance.host} answered {answer.status} to a prompt.")
        return answer

    return await submit_once(
        post_it, lambda: find_prompt(prompt.prompt_id, instance, cluster), clock=cluster.clock
    )


async def find_prompt(prompt_id: str, instance: Instance, cluster: Cluster) -> Answer | None:
    """As if ``instance`` had just taken the prompt, if it has; None if it has not.

    Asked over new connections. Raises InstanceError if it does not say.
    """
    queue = await ask_queue(instance, cluster, fresh=True)
    if queue is None:
        raise InstanceUnreachableError(f"{instance.host} has no usable queue.")
    for entry in (*queue.running, *queue.pending):
        if entry.prompt_id == prompt_id:
            return _accepted(prompt_id, entry.number)
    history = await ask_history(instance, cluster, history_path(prompt_id), fresh=True)
    if history is None:
        raise InstanceUnreachableError(f"{instance.host} has no usable history.")
    if prompt_id not in history:
        return None
    return _accepted(prompt_id, number_of(history[prompt_id]))


def _accepted(prompt_id: str, number: float) -> Answer:
    body = dumps_exact(accepted_answer(prompt_id, number))
    headers = CIMultiDict(
        {"Content-Type": "application/json; charset=utf-8", "Content-Length": str(len(body))}
    )
    return Answer(status=200, headers=headers, body=body)
