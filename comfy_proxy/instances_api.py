"""``/api/instances``, for operators: who does the work, and who is to leave it for a while.

A key is wanted where keys are set, as everywhere. With a STATE_FILE an answer says what outlives a
restart of the proxy too; without one a restart forgets who is drained.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import NotFoundError
from comfy_proxy.jobs.negotiation import wait_seconds
from comfy_proxy.keys import CLUSTER, METRICS, STATE
from comfy_proxy.lenient_json import dumps
from comfy_proxy.status import instance_view


def routes() -> list[web.RouteDef]:
    return [
        web.get("/api/instances", _list),
        web.get("/api/instances/{id}", _one),
        web.post("/api/instances/{id}/drain", _drain),
        web.post("/api/instances/{id}/resume", _resume),
    ]


async def _list(request: web.Request) -> web.Response:
    live = request.app[METRICS].live()
    return _json({"instances": [instance_view(one) for one in live.instances]})


async def _one(request: web.Request) -> web.Response:
    return _answer(request, _instance(request))


async def _drain(request: web.Request) -> web.Response:
    """No new work from now on. ``empty`` says whether it may be restarted; ``?wait=N`` answers when
    it may, or after N seconds (at most 300)."""
    instance, wait_s = _instance(request), wait_seconds(request.query.get("wait"))
    drains = request.app[CLUSTER].drains
    await drains.drain(instance)
    await request.app[STATE].durable()
    await drains.empty(instance, wait_s)
    return _answer(request, instance)


async def _resume(request: web.Request) -> web.Response:
    instance = _instance(request)
    request.app[CLUSTER].drains.resume(instance)
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


def _answer(request: web.Request, instance: Instance) -> web.Response:
    live = request.app[METRICS].live()
    return _json(next(instance_view(one) for one in live.instances if one.id == instance.id))


def _json(data: Any) -> web.Response:
    return web.Response(body=dumps(data), content_type="application/json")
