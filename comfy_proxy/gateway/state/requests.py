"""One request about users, settings or userdata, as one instance gets it, and its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from comfy_proxy.cluster import answer_bodies
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import PayloadTooLargeError
from comfy_proxy.gateway.exchange.answers import ForwardedResponse, gone
from comfy_proxy.gateway.exchange.context import INSTANCE
from comfy_proxy.gateway.exchange.forward import (
    AUTO_HEADERS,
    RequestBody,
    client_fault,
    instance_fault,
)
from comfy_proxy.gateway.exchange.headers import request_headers, response_headers, sendable
from comfy_proxy.gateway.exchange.stored_bytes import BATCH_BYTES, MEMORY_BYTES, StoredBytes
from comfy_proxy.gateway.exchange.target import instance_url, request_target
from comfy_proxy.gateway.routes import Match

if TYPE_CHECKING:
    from comfy_proxy.cluster.cluster import Cluster

USER_HEADER = "comfy-user"
USERS = "/users"
_LATEST_WINS = ("/settings/{id}", "/userdata/{file}")
"""Patterns whose writes replace the whole: of two in a row only the later one matters."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StateRequest:
    """What to send to one instance; ``pattern`` is that of its row in the table.

    ``subject``: a later one about the same makes this one needless.
    """

    method: str
    url: URL
    headers: CIMultiDict[str] = field(repr=False)
    body: StoredBytes | None
    subject: Hashable | None
    pattern: str

    def by(self, user_id: str) -> StateRequest:
        """The same for another id of the user."""
        headers = self.headers.copy()
        headers[USER_HEADER] = user_id
        return replace(self, headers=headers)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An instance's answer, read whole; ``headers`` as the client is to see them."""

    status: int
    reason: str
    headers: CIMultiDict[str] = field(repr=False)
    body: bytes = field(repr=False)


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
    target = request_target(request.raw_path)
    headers = request_headers(request, instance, cluster.settings)
    headers.popall(hdrs.CONTENT_LENGTH, None)
    if match.pattern == USERS:
        headers[hdrs.ACCEPT_ENCODING] = "identity"  # the answer may be read here for its ids
    if body is not None:
        headers[hdrs.CONTENT_LENGTH] = str(body.size)
    if repeated:
        target = _without_overwrite(target)
    variables = tuple(match.variables.values())
    known = match.pattern in _LATEST_WINS
    return StateRequest(
        method=request.method,
        url=instance_url(request, instance, cluster.settings, target),
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
    stored, source = StoredBytes(), RequestBody(request)
    try:
        async for chunk in source:
            if stored.size + len(chunk) > limit:
                raise PayloadTooLargeError("The body is too large.", details={"limit": limit})
            await stored.write(chunk)
    except Exception as error:
        if source.error is error:
            raise client_fault(error) from error
        raise
    return await stored.finish()


async def send(state: StateRequest, instance: Instance, cluster: Cluster) -> Reply:
    """One exchange, bounded in time and size. Raises InstanceError."""
    async with instance.attempt("state"):
        try:
            async with (
                cluster.clock.timeout(cluster.settings.comfyui_timeout_s),
                await cluster.connections.request(
                    instance,
                    state.method,
                    state.url,
                    headers=state.headers,
                    skip_auto_headers=AUTO_HEADERS,
                    data=_payload(state.body),
                    allow_redirects=False,
                ) as response,
            ):
                return await _read(response, instance, cluster)
        except (aiohttp.ClientError, OSError) as error:
            raise instance_fault(error, instance) from error


async def _read(response: aiohttp.ClientResponse, instance: Instance, cluster: Cluster) -> Reply:
    return Reply(
        status=response.status,
        reason=sendable(response.reason or ""),
        headers=response_headers(response, instance, cluster.settings),
        body=await answer_bodies.read(response, answer_bodies.MAX_JSON_BYTES),
    )


def _payload(body: StoredBytes | None) -> bytes | AsyncIterator[bytes] | None:
    if body is None:
        return None
    if body.size > MEMORY_BYTES:
        return _chunks(body)
    with body.open() as file:
        return file.read()


async def _chunks(body: StoredBytes) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(body.open) as file:
        while chunk := await asyncio.to_thread(file.read, BATCH_BYTES):
            yield chunk


async def answer(request: web.Request, reply: Reply, instance: Instance) -> web.StreamResponse:
    """Send ``reply`` to the client as it came."""
    request[INSTANCE] = instance.host
    response = ForwardedResponse(
        status=reply.status, reason=reply.reason, headers=reply.headers.copy()
    )
    try:
        await response.prepare(request)
        if reply.body:
            await response.write(reply.body)
        await response.write_eof()
    except ConnectionError:
        return gone(request)
    return response
