"""``/api/instances``, for operators: lists instances, drains and resumes, adds and removes them.

Where keys are set one is required, as everywhere. With a STATE_FILE a drain or resume is in the
file before it is answered, and outlives a restart of the proxy. What was added or removed is in
memory: a restart reads the configuration.
"""

from __future__ import annotations

from typing import Any, Final

from aiohttp import hdrs, web
from yarl import URL

from comfy_proxy.bodies import ClientBody
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.membership import MembershipError
from comfy_proxy.errors import InvalidFieldError, NotFoundError, RequestError
from comfy_proxy.instance_settings import name_problem, parse_instance
from comfy_proxy.jobs.requests.negotiation import wait_seconds
from comfy_proxy.keys import CLUSTER, METRICS, STATE
from comfy_proxy.lenient_json import dumps, loads
from comfy_proxy.openapi.operation import (
    TRUTH,
    WAIT,
    Answer,
    Handler,
    Operation,
    Parameter,
    json,
    routes_of,
)
from comfy_proxy.status import instance_view
from comfy_proxy.status_types import InstanceList, InstanceView

MAX_BODY_BYTES: Final = 65_536
"""Bytes of the body that adds an instance; a longer body is refused."""


def routes() -> list[web.RouteDef]:
    """Routes for operators."""
    return routes_of(OPERATIONS)


async def _list(request: web.Request) -> web.Response:
    live = request.app[METRICS].live()
    return _json({"instances": [instance_view(one) for one in live.instances]})


async def _one(request: web.Request) -> web.Response:
    return _answer(request, _instance(request))


async def _add(request: web.Request) -> web.Response:
    """Add an instance. It is checked before the answer, and has joined whether or not it answers;
    but not if the answer is our own."""
    url, name = await _newcomer(request)
    cluster = request.app[CLUSTER]
    instance = cluster.membership.add(url, name)
    await cluster.health_checker.check(instance)
    if instance.is_proxy and not instance.left:
        await cluster.membership.remove(instance, force=True)
        message = "That is the address of this proxy itself."
        raise MembershipError(message, details={"field": "url"})
    answer = _answer(request, instance, status=201)
    answer.headers[hdrs.LOCATION] = f"/api/instances/{instance.id}"
    return answer


async def _remove(request: web.Request) -> web.Response:
    """Drain the instance, and remove it once it is empty: 204 if it has left, 202 with its state if
    it leaves later. ``?wait=N`` answers when it has left, or after N seconds; with ``?force=true``
    it leaves at once."""
    instance, wait_s = _instance(request), wait_seconds(request.query.get("wait"))
    force = request.query.get("force", "false")
    if force not in ("true", "false"):
        raise InvalidFieldError("force", "force is true or false.")
    membership = request.app[CLUSTER].membership
    if await membership.remove(instance, wait_s=wait_s, force=force == "true"):
        return web.Response(status=204)
    return _answer(request, instance, status=202)


async def _newcomer(request: web.Request) -> tuple[URL, str | None]:
    """What the body says: ``{"url": "host:port", "name": "…"}``. Raises RequestError."""
    raw = b"".join([piece async for piece in ClientBody(request.content, MAX_BODY_BYTES)])
    try:
        told = loads(raw)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise RequestError('The body is to be JSON: {"url": "host:port", "name": "…"}.')
    for field in told.keys() - {"url", "name"}:
        raise InvalidFieldError(field, f"There is no field {field[:80]!r}, but url and name.")
    url, name = told.get("url"), told.get("name") or None
    if not isinstance(url, str) or not url.strip():
        raise InvalidFieldError("url", "url is host:port, or http://… or https://….")
    if not isinstance(name, str | None):
        raise InvalidFieldError("name", "name is a text.")
    try:
        parsed = parse_instance(url)
    except ValueError as error:
        raise InvalidFieldError("url", f"url: {error}.") from None
    name = None if name is None else name.strip() or None
    if name is not None and (problem := name_problem(name)) is not None:
        raise InvalidFieldError("name", f"name: {problem}.")
    return parsed, name


async def _drain(request: web.Request) -> web.Response:
    """Give the instance no new work. ``empty`` says whether it may be restarted; ``?wait=N``
    answers when it may, or after N seconds (at most 300)."""
    instance, wait_s = _instance(request), wait_seconds(request.query.get("wait"))
    drains = request.app[CLUSTER].drains
    await drains.drain(instance)
    await request.app[STATE].durable()
    await drains.empty(instance, wait_s)
    return _answer(request, instance)


async def _resume(request: web.Request) -> web.Response:
    instance, cluster = _instance(request), request.app[CLUSTER]
    cluster.drains.resume(instance)
    cluster.standstills.resume(instance)
    await request.app[STATE].durable()
    return _answer(request, instance)


def _instance(request: web.Request) -> Instance:
    """The one that the path names, by its number or its name. Raises NotFoundError."""
    return find_instance(request.app[CLUSTER], request.match_info["id"])


def find_instance(cluster: Cluster, text: str) -> Instance:
    """By number or name. Raises NotFoundError, which says who there is."""
    for instance in cluster.instances:
        if text in (instance.id, instance.name):
            return instance
    known = [instance.name or instance.id for instance in cluster.instances]
    raise NotFoundError(
        f"There is no instance {text[:80]!r}.", details={"field": "id", "instances": known}
    )


def _answer(request: web.Request, instance: Instance, *, status: int = 200) -> web.Response:
    """Its state. Raises NotFoundError if it has left meanwhile."""
    instance = find_instance(request.app[CLUSTER], instance.id)
    live = request.app[METRICS].live()
    view = next(instance_view(one) for one in live.instances if one.id == instance.id)
    return _json(view, status=status)


def _json(data: Any, *, status: int = 200) -> web.Response:
    return web.Response(body=dumps(data), status=status, content_type="application/json")


def _row(method: str, path: str, handler: Handler, summary: str, **options: Any) -> Operation:
    known = {"answers": {200: json(InstanceView, "its state")}, "errors": (404,)}
    return Operation(
        method=method,
        path=path,
        handler=handler,
        tag="instances",
        summary=summary,
        **{**known, **options},
    )


_NEW: Final = {
    "type": "object",
    "properties": {
        "url": {"type": "string", "description": "host:port, or http(s)://…"},
        "name": {"type": ["string", "null"], "description": "what it is to be called"},
    },
    "required": ["url"],
    "additionalProperties": False,
}
_FORCE: Final = Parameter(
    name="force", description="at once: what runs there begins anew elsewhere", schema=TRUTH
)
OPERATIONS: Final[tuple[Operation, ...]] = (
    _row(
        "GET",
        "/api/instances",
        _list,
        "All instances",
        answers={200: json(InstanceList, "each with its state")},
        errors=(),
    ),
    _row(
        "POST",
        "/api/instances",
        _add,
        "Have one more instance, until the proxy is restarted",
        body={"application/json": _NEW},
        answers={201: json(InstanceView, "it has joined", Location="where to ask about it")},
        errors=(409, 413, 503),
    ),
    _row("GET", "/api/instances/{id}", _one, "One instance, by number or name"),
    _row(
        "DELETE",
        "/api/instances/{id}",
        _remove,
        "Have one less: what waits there goes elsewhere, what runs there ends first",
        parameters=(WAIT, _FORCE),
        answers={
            202: json(InstanceView, "it leaves when it is empty"),
            204: Answer(description="it has left"),
        },
        errors=(404, 409, 503),
    ),
    _row(
        "POST",
        "/api/instances/{id}/drain",
        _drain,
        "Give an instance nothing new",
        parameters=(WAIT,),
        errors=(404, 503),
    ),
    _row("POST", "/api/instances/{id}/resume", _resume, "Give an instance work again"),
)
