"""``comfy-proxy drain|resume|remove ID`` and ``comfy-proxy add URL``: said to the proxy that
runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

import aiohttp
from yarl import URL

from comfy_proxy.cli.command import EXIT_USAGE, CommandError
from comfy_proxy.cli.proxy_address import ProxyAddress, key_wanted
from comfy_proxy.jobs.requests.negotiation import MAX_WAIT_S

ANSWER_TIMEOUT_S: Final = 10.0
"""Seconds for an answer beyond the wait that was asked for; then the command fails."""
_NOT_THE_PROXY: Final = "no comfy_proxy answers there (is it another address, or its path?)"


async def change_instance(
    action: str,
    instance: str,
    *,
    proxy: ProxyAddress,
    wait_s: float = 0.0,
    name: str | None = None,
    force: bool = False,
    say: Callable[[str], None],
) -> int:
    """``action`` is ``drain``, ``resume``, ``remove`` or ``add``; the exit code is 0 once that is
    done. ``instance`` is its number or name; of one that is to be added its address, and ``name``
    what it is to be called.

    With ``wait_s`` it is 0 only once nothing waits or runs there (or it has left, if it is to be
    removed), and 1 if that takes longer. ``force``: it is removed at once. Raises CommandError if
    the proxy does not do it.
    """
    if instance in ("", ".", ".."):
        raise CommandError(f"{instance!r} is no instance.", code=EXIT_USAGE)
    headers = {"X-API-Key": proxy.api_key} if proxy.api_key else {}
    try:
        connector = aiohttp.TCPConnector(ssl=proxy.verify)
        async with aiohttp.ClientSession(headers=headers, connector=connector) as http:
            there = _Proxy(http, proxy.url)
            if action == "add":
                state = await there.ask("POST", "", body={"url": instance, "name": name})
            else:
                state = await _repeated(there, action, instance, wait_s, force=force)
    except _RefusedError as error:
        told = key_wanted(proxy) if error.status == 401 else f"{proxy.url}: {error}"
        raise CommandError(told) from None
    except (aiohttp.ClientError, ValueError, TimeoutError) as error:
        raise CommandError(f"{proxy.url}: {str(error) or 'no answer'}") from None
    say(_told(action, instance, state))
    return 1 if wait_s and state is not None and _is_under_way(action, state) else 0


async def _repeated(
    proxy: _Proxy, action: str, instance: str, wait_s: float, *, force: bool
) -> Mapping[str, Any] | None:
    """What it says when that is done, or ``wait_s`` later; an answer waits MAX_WAIT_S at most. None
    if it has left."""
    until = time.monotonic() + wait_s
    path = quote(instance, safe="")
    method, path = ("DELETE", path) if action == "remove" else ("POST", f"{path}/{action}")
    state: Mapping[str, Any] | None = None
    while True:
        left_s = max(0.0, min(until - time.monotonic(), MAX_WAIT_S))
        query = f"?wait={left_s:.3f}{'&force=true' if force else ''}"
        try:
            state = await proxy.ask(method, f"/{path}{query}", wait_s=left_s)
        except _RefusedError as refused:
            if state is not None and action == "remove" and refused.status == 404:
                return None  # it has left between two questions
            raise
        if state is None or not _is_under_way(action, state) or time.monotonic() >= until:
            return state


def _is_under_way(action: str, state: Mapping[str, Any]) -> bool:
    """Whether to ask again makes sense."""
    if action == "remove":
        return bool(state["leaving"])
    return action == "drain" and not state["empty"]


class _RefusedError(Exception):
    """The proxy has answered that it does not, with that ``status``."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(f"{status} {why}")
        self.status = status


class _Proxy:
    """The proxy at ``base``."""

    def __init__(self, http: aiohttp.ClientSession, base: str) -> None:
        self._http = http
        self._instances = f"{base.rstrip('/')}/api/instances"

    async def ask(
        self, method: str, path: str, *, wait_s: float = 0.0, body: Any = None
    ) -> Mapping[str, Any] | None:
        """The state of the instance; None if it has left. Raises _RefusedError."""
        target = URL(f"{self._instances}{path}", encoded=True)
        timeout = aiohttp.ClientTimeout(total=wait_s + ANSWER_TIMEOUT_S)
        async with self._http.request(method, target, json=body, timeout=timeout) as answer:
            if answer.status == 204:
                return None
            told = _read(await answer.read())
            if answer.status not in (200, 201, 202):
                why = None if answer.status in (404, 405) else answer.reason
                raise _RefusedError(answer.status, str(told.get("error") or why or _NOT_THE_PROXY))
            if "host" not in told:
                raise _RefusedError(answer.status, _NOT_THE_PROXY)
            return told


def _read(text: bytes) -> Mapping[str, Any]:
    """The JSON object, empty if it is none: then it is not the proxy's."""
    try:
        told = json.loads(text)
    except ValueError:
        told = None
    return told if isinstance(told, dict) else {}


def _told(action: str, instance: str, state: Mapping[str, Any] | None) -> str:
    if state is None:
        return f"instance {instance} is removed"
    name = f" ({state['name']})" if state["name"] else ""
    who = f"instance {state['id']}{name} at {state['host']}"
    once_up = "" if state["status"] == "healthy" else " once it is up"
    if action == "resume":
        return f"{who} gets work again{once_up}"
    if action == "add":
        return f"{who} has joined, and gets work{once_up}"
    left = state["load"]
    if action == "remove" and not state["leaving"]:
        return f"{who} stays: it was resumed"
    if action == "remove":
        what = f"{left} prompt{'s' if left > 1 else ''} still there" if left else "just now empty"
        return f"{who} gets no new work, and leaves when it is empty; {what}"
    if state["empty"]:
        return f"{who} gets no new work, and is empty: it may be restarted"
    return f"{who} gets no new work; {left} prompt{'s' if left > 1 else ''} still there"
