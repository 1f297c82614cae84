"""Webhooks from a client's request to the receiver, through the proxy as a whole."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from job_client import PNG, JobClient, form, noise, until
from loguru import logger
from standardwebhooks import Webhook
from webhook_receiver import SECRET, Received, Receiver, hooks, receiving

from comfy_proxy.keys import WEBHOOKS

Start = Callable[..., Awaitable[JobClient]]
LONG_S = 60.0


@pytest.fixture
async def hooked(start_hooked: Start) -> JobClient:
    return await start_hooked()


def verified(told: Received) -> Any:
    """The status that came, after the check of the specification's library."""
    return Webhook(SECRET).verify(told.body, told.headers)


async def refusal(jobs: JobClient, url: str, **request: Any) -> dict[str, Any]:
    """What a client is told that names ``url``: 400."""
    async with jobs.http.post(
        "/api/upscale-image", params={"webhook_url": url}, data=form(), **request
    ) as answer:
        body: dict[str, Any] = await answer.json()
        assert answer.status == 400, body
    assert body["details"] == {"field": "webhook_url", "setting": "WEBHOOK_ALLOWED_HOSTS"}
    return body


@pytest.mark.parametrize("place", ["query", "form", "json"])
async def test_a_completed_job_is_told(hooked: JobClient, receiver: Receiver, place: str) -> None:
    """Wherever the URL stands, as it was written; the body is the JSON of the job's status."""
    url = f"http://{receiver.host}/Done?Job=A%20b"
    if place == "query":
        sent: dict[str, Any] = {"data": form(), "params": {"webhook_url": url}}
    elif place == "form":
        sent = {"data": form(webhook_url=url)}
    else:
        sent = {"json": {"image": base64.b64encode(PNG).decode(), "webhook_url": url}}
    async with hooked.http.post("/api/upscale-image", **sent) as answer:
        job_id = (await answer.json())["job_id"]
        assert answer.status == 202
    told = await receiver.next()
    assert told.path == "/Done?Job=A%20b"
    assert verified(told) == await hooked.ends(job_id)
    assert told.status["status"] == "completed"
    assert told.status["result_url"] == f"/api/jobs/{job_id}/result"


async def test_a_failed_job_is_told(hooked: JobClient, receiver: Receiver) -> None:
    """With its error."""
    job_id = await hooked.submit("failing", webhook_url=receiver.url)
    told = verified(await receiver.next())
    assert (told["job_id"], told["status"]) == (job_id, "failed")
    assert told["error"]["code"] == "workflow_error"


@pytest.mark.parametrize("begun", [True, False])
async def test_a_cancelled_job_is_told(
    start_hooked: Start, receiver: Receiver, begun: bool
) -> None:
    """Whether it ran or waited; its status is asked for no more, as it is forgotten."""
    jobs = await start_hooked(max_concurrent_jobs=1)
    running = await jobs.submit(seconds=LONG_S, **({"webhook_url": receiver.url} if begun else {}))
    await jobs.reaches(running, "processing")
    job_id = running if begun else await jobs.submit(webhook_url=receiver.url)
    await jobs.delete(job_id)
    told = verified(await receiver.next())
    assert (told["job_id"], told["status"]) == (job_id, "failed")
    assert told["error"]["code"] == "cancelled"
    if not begun:
        await jobs.delete(running)
    assert len(receiver.received) == 1


async def test_who_waits_gets_it_too(hooked: JobClient, receiver: Receiver) -> None:
    """A synchronous request may name a URL as well; others have none, and nothing is sent."""
    await hooked.ends(await hooked.submit())
    async with hooked.http.post(
        "/api/workflows/timed?mode=sync", data=form(webhook_url=receiver.url, salt=77_000)
    ) as answer:
        assert answer.status == 200
    await receiver.next()
    await until(lambda: not len(hooked.http.app[WEBHOOKS].deliveries))
    assert len(receiver.received) == 1


@pytest.mark.parametrize(
    ("where", "root"),
    [
        ({"root_path": "/comfy"}, "/comfy"),
        ({"mount": "/comfy"}, "/comfy"),
        ({"root_path": "/front", "mount": "/comfy/"}, "/front/comfy"),
    ],
)
async def test_urls_begin_with_the_root_path(
    start_hooked: Start, receiver: Receiver, where: dict[str, str], root: str
) -> None:
    """As those of the status do; the path in another application comes behind it."""
    jobs = await start_hooked(**where)
    job_id = await jobs.submit(webhook_url=receiver.url)
    told = verified(await receiver.next())
    assert told["result_url"] == f"{root}/api/jobs/{job_id}/result"


async def test_a_host_that_is_not_allowed(hooked: JobClient, receiver: Receiver) -> None:
    """400 that names field and setting, and neither the list nor a job that was made."""
    async with receiving() as other:
        for url in (other.url, f"http://user@{receiver.host}/", "ftp://a/", "", "http://[::1]/"):
            body = await refusal(hooked, url)
            assert receiver.host not in body["error"]
        assert other.received == []
    assert list(hooked.service.manager) == []
    assert not hooked.http.app[WEBHOOKS].wanted


async def test_without_allowed_hosts_none_is_taken(jobs_without: JobClient) -> None:
    """The answer says which setting would allow it."""
    body = await refusal(jobs_without, "https://a.example/")
    assert "WEBHOOK_ALLOWED_HOSTS names no host" in body["error"]


@pytest.fixture
async def jobs_without(workers: Any, start_proxy: Callable[..., Any]) -> JobClient:
    return JobClient(await start_proxy(*workers))


async def test_a_key_with_another_url_is_another_request(
    hooked: JobClient, receiver: Receiver
) -> None:
    """422; the same once more gives the same job, which tells its end once."""
    picture = noise()

    async def submit(url: str | None) -> tuple[int, Any]:
        fields = {} if url is None else {"webhook_url": url}
        async with hooked.http.post(
            "/api/workflows/timed",
            data=form(picture, salt=1, **fields),
            headers={"Idempotency-Key": "key"},
        ) as answer:
            return answer.status, (await answer.json()).get("job_id")

    first = await submit(receiver.url)
    assert await submit(receiver.url) == first
    assert (await submit(f"{receiver.url}/2"))[0] == 422
    assert (await submit(None))[0] == 422
    await hooked.ends(first[1])
    assert await submit(receiver.url) == first
    await until(lambda: not len(hooked.http.app[WEBHOOKS].deliveries))
    assert len(receiver.received) == 1


async def test_a_receiver_that_hangs_delays_nobody(hooked: JobClient, receiver: Receiver) -> None:
    """Jobs end, and are told, while it does not answer; the next job begins."""
    let = asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        await let.wait()
        return web.Response()

    receiver.answers = [hang]
    ids = [await hooked.submit(webhook_url=receiver.url) for _ in range(8)]
    assert {(await hooked.ends(job_id))["status"] for job_id in ids} == {"completed"}
    assert (await hooked.get("/metrics"))["webhooks"]["pending"] == 8
    let.set()
    receiver.answers = [204]
    await until(lambda: not len(hooked.http.app[WEBHOOKS].deliveries))
    assert len({told.id for told in receiver.received}) == 8


async def test_a_redirect_leads_nowhere(hooked: JobClient, receiver: Receiver) -> None:
    """Not even to a host that a list entry covers, and the figures say how it ended."""
    async with receiving() as forbidden:

        async def elsewhere(request: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": forbidden.url})

        receiver.answers = [elsewhere]
        await hooked.submit(webhook_url=receiver.url)
        await until(lambda: receiver.received)
        await until(lambda: not len(hooked.http.app[WEBHOOKS].deliveries))
        assert forbidden.received == []
    assert (await hooked.get("/metrics"))["webhooks"] == {
        "pending": 0, "delivered": 0, "refused": 1, "expired": 0, "dropped": 0, "retries": 0,
    }  # fmt: skip
    async with hooked.http.get("/metrics", headers={"Accept": "text/plain"}) as answer:
        text = await answer.text()
    assert 'comfy_proxy_webhooks_finished_total{outcome="refused"} 1' in text


async def test_in_an_application_of_somebody_elses(
    workers: Any, start_proxy: Callable[..., Any], receiver: Receiver
) -> None:
    """As a plugin; the host may be the receiver, at the address that the proxy is told."""
    came: asyncio.Queue[bytes] = asyncio.Queue()

    async def mine(request: web.Request) -> web.Response:
        came.put_nowait(await request.read())
        return web.Response()

    app = web.Application()
    app.router.add_post("/mine", mine)
    jobs = JobClient(await start_proxy(*workers, app=app, **hooks(receiver)))

    async def pass_on(request: web.Request) -> web.Response:
        async with jobs.http.post("/mine", data=await request.read()) as answer:
            return web.Response(status=answer.status)

    receiver.answers = [pass_on]
    job_id = await jobs.submit("upscale-image", webhook_url=receiver.url)
    assert job_id.encode() in await came.get()


async def test_no_secret_and_no_path_in_what_is_told(
    start_hooked: Start, receiver: Receiver
) -> None:
    """Neither in the log nor in errors, /health and /metrics."""
    lines: list[str] = []
    logger.add(lambda line: lines.append(str(line)), level="DEBUG")
    jobs = await start_hooked(log_level="debug")
    receiver.answers = [410]
    await jobs.submit(webhook_url=f"http://{receiver.host}/hidden-path?key=hidden")
    await until(lambda: any("given up" in line for line in lines))
    error = (await refusal(jobs, "http://b.example/hidden"))["error"]
    told = [*lines, error, *[str(await jobs.get(path)) for path in ("/health", "/metrics")]]
    bare = SECRET.removeprefix("whsec_")
    assert not any("hidden" in text or bare in text for text in told)


async def test_a_stop_without_a_state_file(start_hooked: Start, receiver: Receiver) -> None:
    """A receiver that is back gets it by the last try, though the next one was not due yet."""
    jobs = await start_hooked(shutdown_timeout_s=10.0)
    receiver.answers = [503, 204]
    retries: list[None] = []
    jobs.http.app[WEBHOOKS].deliveries.on_retry.append(lambda: retries.append(None))
    await jobs.submit(webhook_url=receiver.url)
    await until(lambda: retries)
    await jobs.http.server.close()
    first, second = receiver.received
    assert (first.id, first.body) == (second.id, second.body)
