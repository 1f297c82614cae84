"""``POST /prompt`` with a body that is no prompt as far as we can read it: ComfyUI has the word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_answers import read_accepted
from comfy_proxy.cluster.translation import nothing_sent
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.fanout import Answer, ask
from comfy_proxy.gateway.exchange.target import client_target
from comfy_proxy.gateway.prompts.posting import SUBMIT_TIMEOUT_S, ForwardedPrompt, prompt_headers

if TYPE_CHECKING:
    from comfy_proxy.gateway.gateway import Gateway


async def unread(request: web.Request, gateway: Gateway, body: bytes) -> tuple[Instance, Answer]:
    """What ComfyUI itself says to something that is no prompt as far as we can read it.

    If it takes it all the same the prompt has an owner, and stays where it is.
    """
    instance, answer = await _asked(request, gateway, body)
    prompt_id = read_accepted(native.load(answer)).prompt_id
    if prompt_id is not None:
        gateway.prompt_accepted(
            ForwardedPrompt(
                prompt_id=prompt_id,
                path=client_target(request, gateway.cluster.settings),
                body=body,
                graph={},
                client_id=None,
                headers={},
            ),
            instance,
        )
        gateway.mover.discard(prompt_id)
    return instance, answer


async def _asked(request: web.Request, gateway: Gateway, body: bytes) -> tuple[Instance, Answer]:
    failed: set[Instance] = set()
    while True:
        instance = await gateway.cluster.primary(failed)
        try:
            answer = await ask(
                instance,
                gateway.cluster,
                "POST",
                client_target(request, gateway.cluster.settings),
                data=body,
                headers=prompt_headers(request, instance, gateway),
                timeout_s=SUBMIT_TIMEOUT_S,
            )
        except InstanceError as error:
            if not nothing_sent(error):
                raise  # ComfyUI may have seen more in it than we do: it is not sent twice
            failed.add(instance)
        else:
            return instance, answer
