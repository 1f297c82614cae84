"""An operator who adds and removes instances of a proxy that runs."""

from __future__ import annotations

from typing import Any

from aiohttp.test_utils import TestClient

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import CLUSTER

Http = TestClient[Any, Any]
Json = dict[str, Any]


async def add(http: Http, worker: EmbeddedWorker | str, status: int = 201, **fields: Any) -> Json:
    """What is answered to ``POST /api/instances``, of that status."""
    url = worker if isinstance(worker, str) else worker.host
    async with http.post("/api/instances", json={"url": url, **fields}) as answer:
        body: Json = await answer.json()
        assert answer.status == status, body
        if status == 201:
            assert answer.headers["Location"] == f"/api/instances/{body['id']}"
    return body


async def remove(http: Http, name: str, status: int = 204, **query: str) -> Json:
    """What is answered to ``DELETE /api/instances/{name}``, of that status."""
    async with http.delete(f"/api/instances/{name}", params=query) as answer:
        body: Json = {} if answer.status == 204 else await answer.json()
        assert answer.status == status, body
    return body


def instances(http: Http) -> list[Instance]:
    return list(http.app[CLUSTER].instances)
