"""Which headers cross the proxy, and how they change: the one place, pure functions.

Everything is a CIMultiDict from end to end, so that a header that comes twice stays two headers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from functools import lru_cache

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.forwarded import PREFIX, is_believed
from comfy_proxy.gateway.exchange.context import CONTEXT, USER_HEADER
from comfy_proxy.navigation import is_cross_site
from comfy_proxy.security import COOKIE_NAME, bearer_token, is_key, without_key
from comfy_proxy.settings import Settings

_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
_NOT_SENT = _HOP_BY_HOP | {"host", "expect", "origin", PREFIX.lower()}
"""Headers of a request that no instance gets from the client. ``Host`` is the instance's own.
``Expect``: the server answered 100 Continue before any handler ran, so that hop is done (RFC 9110
10.1.1). ``Origin``: see :func:`_drop_judged`. ``X-Forwarded-Prefix``: see :func:`_add_forwarded`.
"""
_NOT_RETURNED = _HOP_BY_HOP | {"x-request-id"}
"""Headers of an answer that no client gets from the instance; the request's id is ours."""
_VIA = "1.1 comfy-proxy"
_FETCH_SITE = "Sec-Fetch-Site"
# aiohttp refuses to write these (header injection); RFC 9110 5.5 has a recipient put a space.
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def request_headers(
    request: web.Request, instance: Instance, settings: Settings
) -> CIMultiDict[str]:
    """The client's headers as the instance is to see them.

    Hop-by-hop headers end here (RFC 9110 7.6.1), ``X-Forwarded-*`` and ``Via`` are added, our own
    credentials and what a browser says of the page are taken out, and the user gets the id that
    the instance has for them. ``Host`` is left to aiohttp: it is the instance's.
    """
    headers = _end_to_end(request, _request_name)
    if body_was_decoded(request):
        _drop(headers, (hdrs.CONTENT_ENCODING, hdrs.CONTENT_LENGTH))
    if settings.api_keys:
        _drop_credentials(headers, settings.api_keys)
    if instance.url.raw_user is not None:
        headers.popall(hdrs.AUTHORIZATION, None)  # the operator gave credentials of their own
    _drop_judged(headers)
    _add_forwarded(headers, request, settings)
    context = request[CONTEXT]
    headers["X-Request-ID"] = context.id
    if context.user_at is not None and USER_HEADER in headers:  # Connection may have named it
        headers[USER_HEADER] = context.user_at(instance, headers[USER_HEADER])
    return _each_in_one_spelling(headers)


def websocket_headers(
    request: web.Request, instance: Instance, settings: Settings
) -> CIMultiDict[str]:
    """As :func:`request_headers`, less the client's side of its own handshake (RFC 6455 4.1)."""
    return _without_websocket(request_headers(request, instance, settings))


def response_headers(
    upstream: aiohttp.ClientResponse, instance: Instance, settings: Settings
) -> CIMultiDict[str]:
    """The instance's headers as the client is to see them.

    ``Access-Control-*`` is the instance's unless ``CORS_ORIGINS`` is set: then ours replaces it
    (aiohttp-cors asserts that nobody answered before it).
    """
    headers = _end_to_end(upstream, _response_name)
    if settings.cors_origins:
        _drop(headers, [name for name in headers if name.lower().startswith("access-control-")])
    if hdrs.LOCATION in headers:
        headers[hdrs.LOCATION] = _our_location(headers[hdrs.LOCATION], instance)
    return headers


def handshake_headers(
    upstream: aiohttp.ClientResponse, instance: Instance, settings: Settings
) -> CIMultiDict[str]:
    """As :func:`response_headers`, for the 101 that opens a WebSocket."""
    return _without_websocket(response_headers(upstream, instance, settings))


def tokens(headers: CIMultiDictProxy[str], name: str) -> set[str]:
    """The comma separated, case-insensitive members of a header that may come several times."""
    if name not in headers:
        return set()
    joined = ",".join(headers.getall(name))
    return {part.strip().lower() for part in joined.split(",") if part.strip()}


def is_websocket_upgrade(request: web.Request) -> bool:
    """True for the opening handshake of a WebSocket (RFC 6455 4.2.1), on any path.

    Unlike ``navigation.is_event_socket`` it asks for ``Connection: Upgrade`` too, since what passes
    here is upgraded; a handshake without it is forwarded as a GET (:func:`failing_handshake`).
    """
    return (
        request.method == hdrs.METH_GET
        and "websocket" in tokens(request.headers, hdrs.UPGRADE)
        and "upgrade" in tokens(request.headers, hdrs.CONNECTION)
    )


def failing_handshake(request: web.Request) -> CIMultiDict[str]:
    """``Upgrade`` and ``Connection`` of a GET for a WebSocket that is no handshake.

    Only the instance can say in its own words what is wrong with it. Other upgrades (h2c) end here.
    """
    headers: CIMultiDict[str] = CIMultiDict()
    if hdrs.UPGRADE not in request.headers:
        return headers
    wanted = tokens(request.headers, hdrs.UPGRADE)
    if request.method == hdrs.METH_GET and "websocket" in wanted:
        headers[hdrs.UPGRADE] = "websocket"
        if "upgrade" in tokens(request.headers, hdrs.CONNECTION):
            headers[hdrs.CONNECTION] = "Upgrade"
    return headers


def body_was_decoded(request: web.Request) -> bool:
    """True if aiohttp's server takes a Content-Encoding off the body before we see it
    (PROTOCOL.md trap 20).

    The header stays as it was, so it would lie. ``total_compressed_bytes`` is set by the parser
    exactly when it decodes, also when the application was started with ``auto_decompress=False``.
    """
    return request.body_exists and request.content.total_compressed_bytes is not None


def sendable(text: str) -> str:
    """``text`` as aiohttp decoded it from the wire, in the form that its writer can write."""
    return _decode(text.encode("utf-8", "surrogateescape"))


def _decode(raw: bytes) -> str:
    """Header bytes as text without control characters.

    What is no UTF-8 is ISO-8859-1 by the old rule (RFC 9110 5.5). aiohttp would make surrogates of
    it, which its writer silently leaves out.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("iso-8859-1")
    return text if text.isprintable() else _CONTROL_CHARACTERS.sub(" ", text)


def _end_to_end(
    message: web.Request | aiohttp.ClientResponse, name_of: Callable[[bytes], str]
) -> CIMultiDict[str]:
    """All headers that are not for one hop, names spelt as on the wire. ``name_of`` gives the name
    of a header as text, "" for one that is not passed on."""
    named = tokens(message.headers, hdrs.CONNECTION)
    kept = [
        (name, _decode(raw_value))
        for raw_name, raw_value in message.raw_headers
        if (name := name_of(raw_name)) and not (named and name.lower() in named)
    ]
    return CIMultiDict(kept)


@lru_cache(maxsize=1024)  # every message has the same few names
def _request_name(raw_name: bytes) -> str:
    return _name(raw_name, _NOT_SENT)


@lru_cache(maxsize=1024)
def _response_name(raw_name: bytes) -> str:
    return _name(raw_name, _NOT_RETURNED)


def _name(raw_name: bytes, dropped: Collection[str]) -> str:
    """The header's name as text; "" if it is one of ``dropped``, which are in lower case."""
    name = raw_name.decode("ascii", "replace")
    lower = name.lower()
    return "" if lower in dropped or lower.startswith("proxy-") else name


def _each_in_one_spelling(headers: CIMultiDict[str]) -> CIMultiDict[str]:
    """aiohttp's client takes the last of ``Cookie`` and ``cookie`` for the only one."""
    if len(set(map(str.lower, headers))) == len(headers):
        return headers  # as nearly always
    spelt: dict[str, str] = {}
    return CIMultiDict(
        (spelt.setdefault(name.lower(), name), value) for name, value in headers.items()
    )


def _drop(headers: CIMultiDict[str], names: Collection[str]) -> None:
    for name in names:
        headers.popall(name, None)


def _without_websocket(headers: CIMultiDict[str]) -> CIMultiDict[str]:
    _drop(headers, [name for name in headers if name.lower().startswith("sec-websocket-")])
    return headers


def _drop_credentials(headers: CIMultiDict[str], keys: Collection[str]) -> None:
    """Our keys never reach ComfyUI; what is not ours (its own cookies, Basic) does."""
    headers.popall("X-API-Key", None)
    kept = [
        value
        for value in headers.popall(hdrs.AUTHORIZATION, [])
        if (token := bearer_token(value)) is None or not is_key(token, keys)
    ]
    for value in kept:
        headers.add(hdrs.AUTHORIZATION, value)
    for value in headers.popall(hdrs.COOKIE, []):
        parts = [part.strip() for part in value.split(";")]
        others = [part for part in parts if part.partition("=")[0].strip() != COOKIE_NAME]
        if others:
            headers.add(hdrs.COOKIE, "; ".join(others))
    for value in headers.popall(hdrs.REFERER, []):  # the address bar may have held one
        headers.add(hdrs.REFERER, without_key(value, keys))


def _drop_judged(headers: CIMultiDict[str]) -> None:
    """Take out ``Sec-Fetch-Site: cross-site``, which ``security.check`` has judged, and which an
    instance would judge wrongly. For the same reason ``Origin`` is one of _NOT_SENT.

    ComfyUI compares ``Origin`` with its own address, and to do so resolves its own name, each time,
    while its event loop waits: with a slow resolver a page load takes half a minute. A cross-site
    request that passed here (a link to the page, an origin of ``CORS_ORIGINS``) is refused by
    newer versions. Nothing is put in their place: an instance, or a custom node's own check, is
    never told that a request was of its own page when it was not.
    """
    if is_cross_site(headers):
        headers.popall(_FETCH_SITE)


def _add_forwarded(headers: CIMultiDict[str], request: web.Request, settings: Settings) -> None:
    """Extend the list of hops; scheme and host are the outermost proxy's, if there is one.

    What a peer says that is not in ``TRUSTED_PROXIES`` ends here: the instance may believe us.
    ``X-Forwarded-Prefix`` ends here always: we put it before the instance's paths, and an instance
    that did so too would make it come twice.
    """
    if not is_believed(request, settings):
        claims = [name for name in headers if name.lower().startswith("x-forwarded-")]
        _drop(headers, [*claims, hdrs.FORWARDED])
    hops = [hop for hop in (*headers.popall("X-Forwarded-For", ()), request.remote) if hop]
    if hops:
        headers["X-Forwarded-For"] = ", ".join(hops)
    headers.setdefault("X-Forwarded-Proto", request.scheme)
    if host := request.headers.get(hdrs.HOST):
        headers.setdefault("X-Forwarded-Host", host)
    headers.add(hdrs.VIA, _VIA)


def _our_location(location: str, instance: Instance) -> str:
    """A redirect to the instance's own address, which the client may not reach, stays with us.

    As a path of ours; the path under which the client sees us is put before it by the server.
    """
    for base in (str(instance.url.with_user(None)), instance.url.raw_path.rstrip("/")):
        if base and (location == base or location.startswith(f"{base}/")):
            ours = location[len(base) :] or "/"
            # "//a" alone would be another host; WHATWG URL writes such a path so.
            return f"/.{ours}" if ours.startswith(("//", "/\\")) else ours
    return location
