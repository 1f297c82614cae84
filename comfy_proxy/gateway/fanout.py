"""Ask several instances the same thing at once, and keep what each answered.

For answers that are put together here (lists, queues): read whole, bounded. What belongs to one
instance is streamed by ``forward.py`` instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import hdrs
from multidict import CIMultiDict

from comfy_proxy.cluster.comfyui_client import MAX_JSON_BYTES
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.translation import translated
from comfy_proxy.errors import AnswerTooLargeError, InstanceError, NoHealthyInstanceError
from comfy_proxy.gateway.forward import AUTO_HEADERS
from comfy_proxy.gateway.headers import response_headers, sendable
from comfy_proxy.gateway.target import address
from comfy_proxy.tracing import trace_headers

if TYPE_CHECKING:
    from comfy_proxy.cluster.cluster import Cluster

ASK_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What one instance said, whole; ``headers`` as a client is to see them."""

    status: int
    reason: str = ""
    headers: CIMultiDict[str] = field(repr=False)
    body: bytes = field(repr=False)

    def json(self) -> Any:
        """The body as JSON; None where it is none."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None


async def ask(
    instance: Instance,
    cluster: Cluster,
    method: str,
    path: str,
    *,
    timeout_s: float = ASK_TIMEOUT_S,
    **options: Any,
) -> Answer:
    """One exchange with ``instance``; ``options`` are aiohttp's.

    ``path`` is encoded, may carry a query, and is asked for as it stands. ``headers`` among the
    options are a client's: what it did not send is not added, its ids apart. ``fresh`` as of
    :meth:`ConnectionManager.request`. Raises InstanceError.
    """
    if "headers" in options:
        options["skip_auto_headers"] = AUTO_HEADERS
    headers: CIMultiDict[str] = CIMultiDict(options.pop("headers", ()))
    for name, value in {hdrs.ACCEPT_ENCODING: "identity", **trace_headers()}.items():
        headers.setdefault(name, value)
    async with instance.attempt("ask"):
        with translated(instance.host):
            async with (
                cluster.clock.timeout(timeout_s),
                await cluster.connections.request(
                    instance,
                    method,
                    address(instance, path),
                    headers=headers,
                    allow_redirects=False,
                    **options,
                ) as response,
            ):
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > MAX_JSON_BYTES:
                        raise AnswerTooLargeError(f"An answer of {instance.host} is endless.")
                return Answer(
                    status=response.status,
                    reason=sendable(response.reason or ""),
                    headers=response_headers(response, instance, cluster.settings),
                    body=bytes(body),
                )


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
    left = list(cluster.instances if instances is None else instances)
    while asked := await cluster.healthy(left):
        if answers := await ask_each(cluster, method, path, dict.fromkeys(asked, options)):
            return answers
        left = [one for one in left if one not in asked]
    raise NoHealthyInstanceError("No ComfyUI instance answers.", retry_after_s=5)


async def ask_each(
    cluster: Cluster, method: str, path: str, asked: Mapping[Instance, Mapping[str, Any]]
) -> dict[Instance, Answer]:
    """Ask each key of ``asked`` with options of its own; those that fail are left out.

    Raises AnswerTooLargeError.
    """
    results = await asyncio.gather(
        *(ask(instance, cluster, method, path, **options) for instance, options in asked.items()),
        return_exceptions=True,
    )
    answers: dict[Instance, Answer] = {}
    for instance, result in zip(asked, results, strict=True):
        if isinstance(result, Answer):
            answers[instance] = result
        elif isinstance(result, AnswerTooLargeError) or not isinstance(result, InstanceError):
            raise result
    return answers
