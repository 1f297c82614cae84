"""One request about users, settings or userdata, as one instance gets it, and its answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from aiohttp import hdrs, web
from multidict import CIMultiDict

from comfy_proxy.bodies import ClientBody
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.exchange.context import USER_HEADER
from comfy_proxy.gateway.exchange.fanout import Answer, ask
from comfy_proxy.gateway.exchange.headers import request_headers
from comfy_proxy.gateway.exchange.target import client_target
from comfy_proxy.gateway.routes import Match
from comfy_proxy.stored_bytes import StoredBytes

if TYPE_CHECKING:
    from comfy_proxy.cluster.cluster import Cluster

USERS = "/users"
_LATEST_WINS = ("/settings/{id}", "/userdata/{file}")
"""Patterns whose writes replace the whole: of two in a row only the later one matters."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StateRequest:
    """What to send to one instance; ``target`` is a path with its query, ``pattern`` that of its
    row in the table.

    ``subject``: a later one about the same makes this one needless.
    """

    method: str
    target: str
    headers: CIMultiDict[str] = field(repr=False)
    body: StoredBytes | None
    subject: Hashable | None
    pattern: str

    @property
    def path(self) -> str:
        """``target`` without its query, for the log."""
        return self.target.partition("?")[0]

    @property
    def repeatable(self) -> bool:
        """To do it twice is as good as once: it replaces the whole, or deletes it."""
        return self.pattern in _LATEST_WINS or self.pattern == "/settings"

    def by(self, user_id: str) -> StateRequest:
        """The same for another id of the user."""
        headers = self.headers.copy()
        headers[USER_HEADER] = user_id
        return replace(self, headers=headers)


def state_request(
    request: web.Request,
    match: Match,
    instance: Instance,
    cluster: Cluster,
    body: StoredBytes | None,
    *,
    repeated: bool = False,
) -> StateRequest:
    """``request`` for ``instance``; ``repeated``: it has succeeded elsewhere, so it is forced."""
    target = client_target(request, cluster.settings)
    headers = request_headers(request, instance, cluster.settings)
    headers.popall(hdrs.CONTENT_LENGTH, None)
    if body is not None:
        headers[hdrs.CONTENT_LENGTH] = str(body.size)
    if repeated:
        target = _without_overwrite(target)
    variables = tuple(match.variables.values())
    known = match.pattern in _LATEST_WINS
    return StateRequest(
        method=request.method,
        target=target,
        headers=headers,
        body=body,
        subject=(match.pattern, variables, request.headers.get(USER_HEADER)) if known else None,
        pattern=match.pattern,
    )


def _without_overwrite(target: str) -> str:
    """Less ``overwrite=false``: what the primary has accepted is to be everywhere."""
    path, _, query = target.partition("?")
    kept = [part for part in query.split("&") if not part.startswith("overwrite=")]
    return "?".join(filter(None, (path, "&".join(kept))))


async def spooled(request: web.Request, limit: int) -> StoredBytes | None:
    """The client's body, to be sent several times; None if there is none.

    Raises PayloadTooLargeError, RequestError, ClientGoneError.
    """
    if not request.body_exists:
        return None
    stored = StoredBytes()
    try:
        async for piece in ClientBody(request.content, limit):
            await stored.write(piece)
        return await stored.finish()
    except BaseException:
        stored.close()
        raise


async def send(state: StateRequest, instance: Instance, cluster: Cluster) -> Answer:
    """One exchange, bounded in time and size; given up if ``instance`` hangs: others can do it.

    Raises InstanceError.
    """
    return await ask(
        instance,
        cluster,
        state.method,
        state.target,
        kind="state",
        timeout_s=cluster.settings.comfyui_timeout_s,
        replaceable=True,
        headers=state.headers,
        data=_payload(state.body),
    )


def _payload(body: StoredBytes | None) -> bytes | AsyncIterator[bytes] | None:
    if body is None:
        return None
    if not body.in_memory:
        return body.chunks()
    with body.open() as file:
        return file.read()
