"""The answer of the first instance that has what is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import aiohttp
from aiohttp import web

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.exchange.forward import forward_unless


async def first_found(
    request: web.Request,
    cluster: Cluster,
    instances: Iterable[Instance],
    *,
    pass_over: Callable[[InstanceError], bool],
) -> tuple[web.StreamResponse | None, bool]:
    """The first answer of ``instances`` that is not 404, already sent, or None; and whether any of
    them has said 404.

    They are asked one after the other; one that fails so that ``pass_over`` says yes is passed
    over. Raises what forwarding raises otherwise.
    """
    missing = False
    for instance in instances:
        try:
            answer = await forward_unless(request, instance, cluster, _is_missing)
        except InstanceError as error:
            if not pass_over(error):
                raise
            continue  # told to the breaker by the attempt
        if answer is not None:
            return answer, missing
        missing = True
    return None, missing


def _is_missing(upstream: aiohttp.ClientResponse) -> bool:
    return upstream.status == 404
