"""``Idempotency-Key``: a request that is sent again makes no second job."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from job_client import PNG, JobClient, form, noise

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.jobs.service import JobService
from comfy_proxy.stored_bytes import StoredBytes

Start = Callable[..., Awaitable[JobClient]]


async def post(
    client: Any,
    key: str | None = "k",
    picture: bytes = PNG,
    path: str = "/api/upscale-image",
    **headers: str,
) -> tuple[int, dict[str, Any]]:
    sent = {**headers, **({} if key is None else {"Idempotency-Key": key})}
    async with client.post(path, data=form(picture), headers=sent) as answer:
        return answer.status, await answer.json()


async def test_the_same_request_is_the_same_job(
    service: JobService, api_alone: Any, spools: list[StoredBytes]
) -> None:
    """Same key, same request: the same job, however its parameters were written."""
    _, first = await post(api_alone)
    status, again = await post(api_alone, path="/api/upscale-image?scale=2.0&format=png")
    assert (status, again["job_id"]) == (202, first["job_id"])
    assert len(list(service.manager)) == 1
    assert [spool.closed for spool in spools] == [False, True]


@pytest.mark.parametrize("other", [{"picture": noise()}, {"path": "/api/upscale-image?scale=3"}])
async def test_another_request_is_422(
    service: JobService, api_alone: Any, spools: list[StoredBytes], other: dict[str, Any]
) -> None:
    """Same key, another picture or parameter: refused, and the first job is untouched."""
    await post(api_alone)
    status, body = await post(api_alone, **other)
    assert (status, body["code"]) == (422, "idempotency_key_reused")
    assert len(list(service.manager)) == 1
    assert spools[-1].closed


async def test_other_keys_and_none_make_other_jobs(service: JobService, api_alone: Any) -> None:
    """Without a key, and with another one, each request is a job."""
    keys = ["a", "b", "A", None, None]
    ids = {(await post(api_alone, key))[1]["job_id"] for key in keys}
    assert len(ids) == len(list(service.manager)) == 5


async def test_another_client_s_key_is_another_key(service: JobService, api_alone: Any) -> None:
    """A key counts for the credential that sent it: it must not reveal somebody else's job."""
    credentials = [{"X-API-Key": "one"}, {"X-API-Key": "two"}, {"Authorization": "Bearer one"}, {}]
    ids = {(await post(api_alone, "k", **headers))[1]["job_id"] for headers in credentials}
    assert len(ids) == 4


async def test_concurrent_requests_make_one_job(service: JobService, api_alone: Any) -> None:
    """Ten at once with one key are one job."""
    answers = await asyncio.gather(*(post(api_alone) for _ in range(10)))
    assert {status for status, _ in answers} == {202}
    assert len({body["job_id"] for _, body in answers}) == 1
    assert len(list(service.manager)) == 1


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_a_bad_key(service: JobService, api_alone: Any, key: str) -> None:
    """An empty or endless key is 400 and named."""
    status, body = await post(api_alone, key)
    assert (status, body["details"]["field"]) == (400, "Idempotency-Key")
    assert list(service.manager) == []


async def test_a_deleted_job_frees_its_key(service: JobService, api_alone: Any) -> None:
    """After DELETE the key can be used again, with another request too."""
    _, first = await post(api_alone)
    async with api_alone.delete(f"/api/jobs/{first['job_id']}"):
        pass
    status, second = await post(api_alone, picture=noise())
    assert (status, second["job_id"] != first["job_id"]) == (202, True)


async def test_a_refused_request_does_not_use_up_its_key(
    service: JobService, api_alone: Any
) -> None:
    """A key whose request was refused is as good as new."""
    status, _ = await post(api_alone, path="/api/upscale-image?scale=99")
    assert status == 400
    assert (await post(api_alone))[0] == 202


async def test_two_synchronous_callers_share_one_job(
    start_jobs: Start, workers: tuple[EmbeddedWorker, EmbeddedWorker]
) -> None:
    """A retry while the first request still waits waits for the same job, which runs once."""
    jobs = await start_jobs(*workers)
    path = "/api/workflows/timed?mode=sync&seconds=0.1"
    (one, first), (two, second) = await asyncio.gather(
        *(post(jobs.http, path=path) for _ in range(2))
    )
    assert (one, two, first["jobId"]) == (200, 200, second["jobId"])
    assert sum(len(worker.started) for worker in workers) == 1
