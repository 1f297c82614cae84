"""One request about users, settings or userdata, as one instance gets it; and those it missed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from aiohttp import hdrs, web
from loguru import logger
from multidict import CIMultiDict

from comfy_proxy.bodies import ClientBody
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.exchange.fanout import Answer, ask
from comfy_proxy.gateway.exchange.headers import request_headers
from comfy_proxy.gateway.exchange.target import client_target
from comfy_proxy.gateway.routes import Match
from comfy_proxy.stored_bytes import StoredBytes

if TYPE_CHECKING:
    from comfy_proxy.cluster.cluster import Cluster

USER_HEADER = "comfy-user"
USERS = "/users"
MOVE = "/userdata/{file}/move/{dest}"
MAX_MISSED = 1000
MAX_MISSED_BYTES = 256 * 2**20
_LATEST_WINS = ("/settings/{id}", "/userdata/{file}")


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
    """One exchange, bounded in time and size. Raises InstanceError."""
    return await ask(
        instance,
        cluster,
        state.method,
        state.target,
        kind="state",
        timeout_s=cluster.settings.comfyui_timeout_s,
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


class MissedWrites:
    """What one instance has still to be told, in order; bounded, the oldest goes first.

    A write makes an earlier one about the same file or setting needless, unless something was
    moved in between: a move needs what was there before it.
    """

    def __init__(self) -> None:
        self._writes: list[StateRequest] = []

    def __repr__(self) -> str:
        return f"<MissedWrites {len(self._writes)}>"

    def __len__(self) -> int:
        return len(self._writes)

    @property
    def first(self) -> StateRequest | None:
        """The one to be sent next."""
        return self._writes[0] if self._writes else None

    def add(self, write: StateRequest) -> None:
        """``write`` is the last one now."""
        if (earlier := self._needless(write)) is not None:
            self._writes.remove(earlier)
        self._writes.append(write)
        while len(self._writes) > MAX_MISSED or self._size() > MAX_MISSED_BYTES:
            lost = self._writes.pop(0)
            logger.warning("too many writes were missed: {} {} is lost", lost.method, lost.path)

    def done(self, write: StateRequest) -> None:
        """The instance has it (it may have become needless meanwhile)."""
        if write in self._writes:
            self._writes.remove(write)

    def _needless(self, write: StateRequest) -> StateRequest | None:
        for earlier in reversed(self._writes):
            if earlier.pattern == MOVE:
                return None
            if write.subject is not None and earlier.subject == write.subject:
                return earlier
        return None

    def _size(self) -> int:
        return sum(write.body.size for write in self._writes if write.body is not None)
