"""One ``POST /prompt`` to one instance, in such a way that nothing runs twice (trap 9)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from multidict import CIMultiDict

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.submit_once import submit_once
from comfy_proxy.errors import InstanceUnreachableError
from comfy_proxy.gateway import native
from comfy_proxy.gateway.fanout import Answer, ask
from comfy_proxy.tracing import TRACE, Trace, about, traced

if TYPE_CHECKING:
    from comfy_proxy.gateway.gateway import Gateway

SUBMIT_TIMEOUT_S = 120.0
"""A busy event loop may stand still for long before it takes the prompt (trap 8)."""
_GATEWAY_STATUSES = (502, 503, 504)


@dataclass(kw_only=True, slots=True, eq=False)
class ForwardedPrompt:
    """A prompt that a client posted. ``headers`` differ where an instance has credentials.

    ``instance`` is where it waits or runs (``began``), ``number`` the one that it got there.
    ``settled``: it is not to be moved any more. ``trace`` is that of the request that brought it.
    """

    prompt_id: str
    path: str
    body: bytes = field(repr=False)
    graph: Mapping[str, Any] = field(repr=False)
    client_id: str | None
    headers: Mapping[Instance, CIMultiDict[str]] = field(repr=False)
    instance: Instance | None = None
    settled: bool = False
    began: bool = False
    number: float = 0
    trace: Trace | None = field(default_factory=TRACE.get, repr=False)

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

        As the last key, which wins over one of the client's; ``front`` counts without it only.
        """
        at = self.body.rindex(b"}")
        return self.body[:at] + b', "number": ' + json.dumps(number).encode() + self.body[at:]


async def post(
    prompt: ForwardedPrompt, instance: Instance, gateway: Gateway, body: bytes
) -> Answer:
    """Have ``instance`` take the prompt; its answer, or one like it if that was lost on the way.

    Raises as :func:`submit_once` does.
    """

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
        if answer.status in _GATEWAY_STATUSES:
            raise InstanceUnreachableError(f"{instance.host} answered {answer.status} to a prompt.")
        return answer

    return await submit_once(
        post_it, lambda: find(prompt, instance, gateway), clock=gateway.cluster.clock
    )


async def find(prompt: ForwardedPrompt, instance: Instance, gateway: Gateway) -> Answer | None:
    """As if ``instance`` had just taken the prompt, if it has; None if it has not.

    Asked over new connections. Raises InstanceError if it does not say.
    """
    queue = native.load(await ask(instance, gateway.cluster, "GET", "/queue", fresh=True))
    try:
        for entry in [*queue["queue_running"], *queue["queue_pending"]]:
            if entry[1] == prompt.prompt_id:
                return _accepted(prompt.prompt_id, entry[0])
        path = f"/history/{quote(prompt.prompt_id, safe='')}"
        history = native.load(await ask(instance, gateway.cluster, "GET", path, fresh=True))
        if prompt.prompt_id not in history:
            return None
        return _accepted(prompt.prompt_id, history[prompt.prompt_id]["prompt"][0])
    except (KeyError, TypeError, IndexError) as error:
        raise InstanceUnreachableError(f"{instance.host} has no usable queue.") from error


def _accepted(prompt_id: str, number: float) -> Answer:
    answer = {"prompt_id": prompt_id, "number": number, "node_errors": {}}
    body = json.dumps(answer).encode()
    headers = CIMultiDict(
        {"Content-Type": "application/json; charset=utf-8", "Content-Length": str(len(body))}
    )
    return Answer(status=200, headers=headers, body=body)
