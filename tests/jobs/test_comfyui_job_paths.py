"""``/api/jobs``, ``/api/jobs/{id}`` and ``…/cancel`` are ComfyUI's own unless the id is ours."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from job_client import JobClient


class ModernComfyUI:
    """Answers ComfyUI's job routes of 2026 with what it was asked."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        app = web.Application()
        app.router.add_get("/system_stats", self._stats)
        app.router.add_route("*", "/{path:api/jobs.*}", self._answer)
        self.server = TestServer(app)

    async def _stats(self, request: web.Request) -> web.Response:
        return web.json_response({"system": {}})

    async def _answer(self, request: web.Request) -> web.Response:
        self.seen.append(f"{request.method} {request.raw_path}")
        return web.json_response({"comfyui": True}, status=201)


@pytest.fixture
async def comfyui() -> AsyncIterator[ModernComfyUI]:
    instance = ModernComfyUI()
    async with instance.server:
        yield instance


@pytest.fixture
async def proxied(comfyui: ModernComfyUI, start_jobs: Any) -> JobClient:
    made: JobClient = await start_jobs(str(comfyui.server.make_url("")).rstrip("/"))
    return made


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/jobs"),
        ("GET", "/api/jobs?status=pending&limit=5"),
        ("GET", "/api/jobs/6b7d2c1e-0000-4000-8000-000000000000"),
        ("POST", "/api/jobs/6b7d2c1e-0000-4000-8000-000000000000/cancel"),
        ("POST", "/api/jobs/cancel"),
    ],
)
async def test_what_is_not_ours_is_comfyui_s(
    proxied: JobClient, comfyui: ModernComfyUI, method: str, path: str
) -> None:
    """An id that is not ours reaches ComfyUI as it was sent, and its answer comes back."""
    async with proxied.http.request(method, path) as answer:
        assert (answer.status, await answer.json()) == (201, {"comfyui": True})
    assert comfyui.seen[-1] == f"{method} {path}"


async def test_our_own_job(proxied: JobClient, comfyui: ModernComfyUI) -> None:
    """An id of ours is answered here: what it is, and whether it was cancelled."""
    job_id = await proxied.submit("upscale-image")
    body = await proxied.get(f"/api/jobs/{job_id}")
    assert (body["job_id"], body["parameters"]["scale"]) == (job_id, 2.0)
    async with proxied.http.post(f"/api/jobs/{job_id}/cancel") as answer:
        assert (answer.status, await answer.json()) == (200, {"cancelled": True})
    assert not [seen for seen in comfyui.seen if job_id in seen]


async def test_a_finished_job_of_ours_cannot_be_cancelled(proxied: JobClient) -> None:
    """``cancelled: false``, as ComfyUI says it, and the job stays."""
    job_id = await proxied.submit("upscale-image")
    manager = proxied.service.manager
    job = manager.get_job(job_id)
    await proxied.service.processor.cancel(job)
    async with proxied.http.post(f"/api/jobs/{job_id}/cancel") as answer:
        assert (answer.status, await answer.json()) == (200, {"cancelled": False})
    assert manager.find_job(job_id) is job


@pytest.mark.parametrize("path", ["/api/jobs/list", "/api/jobs/stats"])
async def test_our_listings_are_not_forwarded(
    proxied: JobClient, comfyui: ModernComfyUI, path: str
) -> None:
    """``list`` and ``stats`` are ours, whatever ids ComfyUI has."""
    await proxied.get(path)
    assert comfyui.seen == []


async def test_a_delete_of_an_unknown_job_is_ours(
    proxied: JobClient, comfyui: ModernComfyUI
) -> None:
    """ComfyUI has no DELETE there: the 404 comes from here."""
    async with proxied.http.delete("/api/jobs/nobody") as answer:
        assert (answer.status, (await answer.json())["code"]) == (404, "job_not_found")
    assert comfyui.seen == []
