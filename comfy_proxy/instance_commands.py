"""``comfy-proxy drain ID`` and ``comfy-proxy resume ID``: said to the proxy that runs."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

import aiohttp
from yarl import URL

from comfy_proxy.jobs.negotiation import MAX_WAIT_S
from comfy_proxy.settings import Settings
from comfy_proxy.tls import client_context

ANSWER_TIMEOUT_S: Final = 10.0
"""Seconds for an answer beyond the wait that was asked for; then the command fails."""
_EVERYWHERE = ("", "0.0.0.0", "::")


async def change_instance(
    action: str,
    instance: str,
    *,
    settings: Settings,
    url: URL | None,
    wait_s: float,
    say: Callable[[str], None],
) -> int:
    """``action`` is ``drain`` or ``resume``; the exit code is 0 once that is done.

    ``url`` None is the proxy of ``settings``. With ``wait_s`` it is 0 only once nothing waits or
    runs there, and 1 if that takes longer.
    """
    until = time.monotonic() + wait_s
    base = url or own_url(settings)
    headers = {"X-API-Key": settings.api_keys[0]} if settings.api_keys else {}
    try:
        connector = aiohttp.TCPConnector(ssl=_trusted(settings, url))
        async with aiohttp.ClientSession(headers=headers, connector=connector) as http:
            while True:
                left_s = max(0.0, min(until - time.monotonic(), MAX_WAIT_S))
                state = await _post(http, base, f"{quote(instance, safe='')}/{action}", left_s)
                if state["empty"] or action != "drain" or time.monotonic() >= until:
                    break
    except (aiohttp.ClientError, TimeoutError, _RefusedError) as error:
        say(f"{base}: {error or 'no answer'}")
        return 1
    say(_told(action, state))
    return 0 if state["empty"] or not wait_s or action != "drain" else 1


def own_url(settings: Settings) -> URL:
    """Where the proxy of these settings is reached from this machine."""
    host = "127.0.0.1" if settings.host in _EVERYWHERE else settings.host
    scheme = "https" if settings.tls_cert else "http"
    return URL.build(scheme=scheme, host=host, port=settings.port)


def _trusted(settings: Settings, url: URL | None) -> ssl.SSLContext | bool:
    """Of the proxy on this machine its own certificate, which names another host; of one that was
    named with ``--url`` what the system trusts."""
    if url is not None or settings.tls_cert is None:
        return True
    context = client_context(settings.tls_cert)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


class _RefusedError(Exception):
    """The proxy has answered that it does not."""


async def _post(
    http: aiohttp.ClientSession, base: URL, path: str, wait_s: float
) -> Mapping[str, Any]:
    target = URL(f"{str(base).rstrip('/')}/api/instances/{path}?wait={wait_s:.3f}", encoded=True)
    timeout = aiohttp.ClientTimeout(total=wait_s + ANSWER_TIMEOUT_S)
    async with http.post(target, timeout=timeout) as answer:
        body = await answer.json(content_type=None) if answer.content_length else {}
        if answer.status != 200:
            told = body.get("error") if isinstance(body, dict) else None
            raise _RefusedError(f"{answer.status} {told or answer.reason}")
        state: Mapping[str, Any] = body
        return state


def _told(action: str, state: Mapping[str, Any]) -> str:
    name = f" ({state['name']})" if state["name"] else ""
    who = f"instance {state['id']}{name} at {state['host']}"
    if action == "resume":
        return f"{who} gets work again" + ("" if state["status"] == "healthy" else " once it is up")
    left = state["load"]
    if state["empty"]:
        return f"{who} gets no new work, and is empty: it may be restarted"
    return f"{who} gets no new work; {left} prompt{'s' if left > 1 else ''} still there"
