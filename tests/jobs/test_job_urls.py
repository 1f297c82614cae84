"""The URLs that we tell lead there for a client that sees the proxy under another server's path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urljoin

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient
from job_client import JobClient, form

ROOT = "/user/a/proxy/3000"
BY_HEADER = {"X-Forwarded-Prefix": ROOT}


@pytest.mark.parametrize("by", ["header", "setting"])
async def test_every_url_of_a_job_resolves_under_the_prefix(
    start_jobs: Callable[..., Any], workers: Any, by: str
) -> None:
    """In the 202 and its Location, the status, listings, events, and errors with a way on."""
    settings = {"root_path": ROOT} if by == "setting" else {}
    headers = BY_HEADER if by == "header" else {}
    jobs: JobClient = await start_jobs(*workers, **settings)
    http: TestClient[Any, Any] = jobs.http

    async def get(url: str, *, expect: int = 200) -> Any:
        """What the server in front makes of it: the prefix is taken off."""
        path = urljoin(f"{ROOT}/api/workflows/timed", url)
        assert path.startswith(f"{ROOT}/api/jobs/"), url
        async with http.get(path.removeprefix(ROOT), headers=headers) as answer:
            assert answer.status == expect, await answer.text()
            if answer.content_type != "application/json":
                return await answer.read()
            return await answer.json()

    body = form(salt=1, seconds=0.3)
    async with http.post("/api/workflows/timed", data=body, headers=headers) as answer:
        assert answer.status == 202
        accepted = await answer.json()
        assert answer.headers["Location"] == accepted["status_url"]
    too_early = await get(accepted["result_url"], expect=409)
    assert too_early["details"]["status_url"] == accepted["status_url"]
    events = await get(accepted["events_url"])
    done = await get(accepted["status_url"])
    assert done["status"] == "completed"
    assert done["result_url"] == accepted["result_url"]
    assert f'"result_url":"{accepted["result_url"]}"'.encode() in events
    assert await get(done["result_url"])
    job_id = accepted["job_id"]
    assert (await get(f"{ROOT}/api/jobs/{job_id}/info"))["result_url"] == done["result_url"]
    (listed,) = (await get(f"{ROOT}/api/jobs/list"))["jobs"]
    assert listed["result_url"] == done["result_url"]


async def test_one_job_has_urls_for_each_client(jobs: JobClient) -> None:
    """Whoever asks gets its own: through another server, directly, and who is not believed."""
    job_id = await jobs.submit()
    await jobs.ends(job_id)
    for headers, root in ((BY_HEADER, ROOT), ({}, ""), ({"X-Forwarded-Prefix": "//evil"}, "")):
        async with jobs.http.get(f"/api/jobs/{job_id}/status", headers=headers) as answer:
            assert (await answer.json())["result_url"] == f"{root}/api/jobs/{job_id}/result"


UNKNOWN = [
    ("GET", "/api/jobs/nobody/status"),
    ("GET", "/api/jobs/nobody/result"),
    ("GET", "/api/jobs/nobody/events"),
    ("GET", "/api/jobs/nobody/info"),
    ("DELETE", "/api/jobs/nobody"),
    ("POST", "/api/workflows/nothing"),
    ("GET", "/api/instances/9"),
]


@pytest.mark.parametrize("by", ["header", "setting", "nobody"])
async def test_a_404_of_ours_leads_to_the_documentation(
    start_jobs: Callable[..., Any], workers: Any, by: str
) -> None:
    """Under the path at which the client sees us; a 400 has no need of it."""
    jobs: JobClient = await start_jobs(*workers, **({"root_path": ROOT} if by == "setting" else {}))
    headers = BY_HEADER if by == "header" else {}
    docs = "/api/docs" if by == "nobody" else f"{ROOT}/api/docs"
    for method, path in UNKNOWN:
        async with jobs.http.request(method, path, headers=headers) as answer:
            body = await answer.json()
        assert (answer.status, body["details"]["docs"]) == (404, docs), path
    async with jobs.http.get("/api/jobs/list?status=x", headers=headers) as answer:
        assert "docs" not in (await answer.json())["details"]


@pytest.mark.parametrize("path", ["/api/nonsense", "/api/jobs/a/nonsense", "/api/workflows/a/b"])
async def test_a_404_of_comfyuis_is_its_own(jobs: JobClient, workers: Any, path: str) -> None:
    """A path that nobody has, below ours too, is answered by an instance, byte for byte."""
    async with jobs.http.get(path) as answer:
        ours = answer.status, await answer.read(), answer.content_type
    async with ClientSession() as session, session.get(workers[0].url + path) as answer:
        assert ours == (answer.status, await answer.read(), answer.content_type)
    assert ours[0] == 404
