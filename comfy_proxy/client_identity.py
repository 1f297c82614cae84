"""Who a client is where clients get a fair share: its API key, else its address. Pure.

Behind servers of ``TRUSTED_PROXIES`` the address is the last one of ``X-Forwarded-For`` that is not
such a server's: what stands before it the client may have invented. A name of nobody: it goes into
no log and to no instance.
"""

from __future__ import annotations

from ipaddress import ip_address

from aiohttp import web

from comfy_proxy.addresses import comma_list, is_in
from comfy_proxy.forwarded import is_believed
from comfy_proxy.security import key_of
from comfy_proxy.settings import Settings

FORWARDED_FOR = "X-Forwarded-For"


def client_of(request: web.Request, settings: Settings) -> str:
    """The same text for all requests of one client.

    Without ``API_KEYS`` a key counts nothing: whoever sends another one with each request would be
    many clients. All addresses of an IPv6 network of 64 bits are one client: one machine has them
    all.
    """
    key = key_of(request, settings.api_keys) if settings.api_keys else None
    if key is not None:
        return f"key {key}"
    return f"address {_network(_address(request, settings))}"


def _address(request: web.Request, settings: Settings) -> str:
    peer = request.get_extra_info("peername")
    nearest = str(peer[0]) if isinstance(peer, tuple) and peer else ""
    if not is_believed(request, settings):
        return nearest
    hops = [hop for value in request.headers.getall(FORWARDED_FOR, ()) for hop in comma_list(value)]
    for hop in reversed(hops):
        nearest = _without_port(hop)
        if not is_in(nearest, settings.trusted_proxies):
            break
    return nearest


def _without_port(hop: str) -> str:
    """``[::1]:5`` and ``1.2.3.4:5``, as some servers write them, are ``::1`` and ``1.2.3.4``."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _network(address: str) -> str:
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if found.version == 4:
        return str(found)
    mapped = found.ipv4_mapped
    return str(mapped) if mapped is not None else found.exploded[:19]
