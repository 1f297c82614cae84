"""What cannot be sent is a ClientError of its own, and nothing is sent; so is a client that is
closed."""

from __future__ import annotations

import math
import socket
from decimal import Decimal
from typing import Any

import pytest
from both_clients import client_of
from job_client import PNG, JobClient

from comfy_proxy.client import Client, ClientError, InvalidValueError, Policy, UnreachableError

ROUND: list[Any] = []
ROUND.append(ROUND)


@pytest.mark.long
@pytest.mark.parametrize("value", [math.nan, math.inf, object(), "\udcff", ROUND, {1, 2}])
async def test_a_parameter_that_cannot_be_sent_is_named(
    client: Any, jobs: JobClient, value: Any
) -> None:
    with pytest.raises(InvalidValueError, match="scale cannot be sent") as wrong:
        await client.submit("upscale-image", scale=value)
    assert wrong.value.field == "scale"
    assert not list(jobs.service.manager)


@pytest.mark.long
async def test_beside_a_file_a_parameter_is_a_text(client: Any, jobs: JobClient) -> None:
    """Which numbers of other libraries are too; what is no text or no number is told by its name,
    by us or by the proxy."""
    for value in (math.nan, math.inf, "\udcff", object()):
        with pytest.raises(ClientError) as wrong:
            await client.submit("upscale-image", PNG, scale=value)
        assert wrong.value.field == "scale"
    assert not list(jobs.service.manager)
    job = await client.submit("upscale-image", PNG, scale=Decimal("2"))
    assert (await job.wait()).status == "completed"


@pytest.mark.long
@pytest.mark.parametrize("key", ["", "a\nb", "é", "a\x00"])
async def test_an_idempotency_key_that_no_header_carries_is_told(
    client: Any, jobs: JobClient, key: str
) -> None:
    with pytest.raises(InvalidValueError) as wrong:
        await client.submit("upscale-image", PNG, idempotency_key=key)
    assert wrong.value.field == "Idempotency-Key"
    assert not list(jobs.service.manager)


async def test_a_text_that_no_address_carries_is_told(client: Any) -> None:
    with pytest.raises(InvalidValueError):
        await client.jobs(status="\udcff")


async def test_a_limit_that_is_no_number_does_not_wait(client: Any, jobs: JobClient) -> None:
    running = await client.submit("timed", PNG, seconds=20)
    with pytest.raises(InvalidValueError) as wrong:
        await running.wait(math.nan)
    assert wrong.value.field == "timeout_s"
    assert not (await running.wait(0)).finished


async def test_what_cannot_be_sent_is_not_tried_again(kind: str) -> None:
    """It is no broken connection, though it is found out as late as when it is sent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        async with client_of(kind, url) as client:
            http = (client._real if kind == "sync" else client)._http
            http.headers["X-Wrong"] = "a\nb"
            with pytest.raises(InvalidValueError, match="cannot be sent"):
                await client.jobs()


async def test_a_closed_client_says_so(kind: str, front: Any, jobs: JobClient) -> None:
    """By whatever is asked of it, also in the midst of a job's events."""
    async with client_of(kind, front.make_url("/")) as client:
        job = await client.submit("timed", PNG, seconds=20)
        events = job.progress()
        await anext(events)
        await client.close()
        asking = (client.jobs, job.status, job.wait, job.results, job.cancel, client.workflows)
        for ask in asking:
            with pytest.raises(ClientError, match="closed") as closed:
                await ask()
            assert closed.value.code == "closed"
        with pytest.raises(ClientError, match="closed"):
            async for _ in events:
                pass
        await client.close()
    await jobs.delete(job.id)


def test_a_password_in_the_address_is_told_to_nobody() -> None:
    """It is sent, but stands in no error, and in no log that shows the client."""
    with socket.socket() as held:  # nobody listens there
        held.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{held.getsockname()[1]}"
        with Client(f"http://me:secret@{place}", policy=Policy(patience_s=0)) as proxy:
            assert repr(proxy) == f"<Client http://{place}>"
            with pytest.raises(UnreachableError, match=place) as wrong:
                proxy.workflows()
    assert "secret" not in str(wrong.value)
