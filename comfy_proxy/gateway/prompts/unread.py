"""``POST /prompt`` with a body that is no prompt as far as we can read it: ComfyUI has the word."""

from __future__ import annotations

from aiohttp import web

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_answers import read_accepted
from comfy_proxy.cluster.translation import nothing_sent
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.fanout import Answer, ask
from comfy_proxy.gateway.exchange.target import client_target
from comfy_proxy.gateway.prompts.posting import SUBMIT_TIMEOUT_S, prompt_headers, sent
from comfy_proxy.ledger import events
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import Prompt


async def unread(
    request: web.Request, body: bytes, cluster: Cluster, ledger: Ledger
) -> tuple[Instance, Answer]:
    """What ComfyUI itself says to something that is no prompt as far as we can read it.

    If it takes it all the same the prompt has an owner, and stays where it is.
    """
    instance, answer = await _asked(request, body, cluster)
    prompt_id = read_accepted(native.load(answer)).prompt_id
    if prompt_id is not None:
        prompt = Prompt(prompt_id=prompt_id)
        ledger.apply(events.Received(prompt=prompt))
        ledger.apply(events.Sent(prompt=prompt, instance=instance))
        ledger.apply(events.Accepted(prompt=prompt, prompt_id=prompt_id, number=0))
    return instance, answer


async def _asked(request: web.Request, body: bytes, cluster: Cluster) -> tuple[Instance, Answer]:
    failed: set[Instance] = set()
    while True:
        instance = await cluster.primary(failed)
        try:
            answer = await ask(
                instance,
                cluster,
                "POST",
                client_target(request, cluster.settings),
                **sent(body, prompt_headers(request, instance, cluster.settings)),
                timeout_s=SUBMIT_TIMEOUT_S,
            )
        except InstanceError as error:
            if not nothing_sent(error):
                raise  # ComfyUI may have seen more in it than we do: it is not sent twice
            failed.add(instance)
        else:
            return instance, answer
