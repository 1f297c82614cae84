"""Which instances could not be asked for an answer that is put together of all of them."""

from __future__ import annotations

from collections.abc import Container, Sequence

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.exchange.fanout import Head

MISSING_HEADER = "X-Comfy-Proxy-Missing"
"""Of an answer to a client: the ids of these instances (their numbers in the configuration), with
commas in between. It is left out if all were asked. No addresses: those are not for clients."""


def unasked(cluster: Cluster, answered: Container[Instance]) -> list[Instance]:
    """Those that gave no usable answer: they are away, or were given up."""
    return [one for one in cluster.instances if one not in answered]


def name_missing(like: Head, missing: Sequence[Instance]) -> None:
    """Have the answer that takes its headers from ``like`` say that these could not be asked."""
    if missing:
        like.headers[MISSING_HEADER] = ", ".join(one.id for one in missing)
