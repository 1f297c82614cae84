"""Connections that ended without our knowledge: what is sent again, what never, what it costs."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from cluster_harness import Run, eventually, graph, nothing_left, second_look
from forwarder import Forwarder, forwarding
from manual_clock import ManualClock

from comfy_proxy.cluster import connection_manager
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.connection_manager import BrokenConnectionError
from comfy_proxy.cluster.submit_once import submit_once
from comfy_proxy.cluster.translation import nobody_listens, nothing_sent
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.errors import (
    ConnectionBrokenError,
    InstanceDiedError,
    InstanceTimeoutError,
    InstanceUnreachableError,
)

MANY = 8
KEY = aiohttp.client_reqrep.ConnectionKey("gpu", 8188, False, True, None, None, None)


def dial(error: OSError) -> Exception:
    """What aiohttp makes of a dial that failed."""
    return aiohttp.ClientConnectorError(KEY, error)


@pytest.fixture
async def network(worker: EmbeddedWorker) -> AsyncIterator[Forwarder]:
    """What lies between the proxy and the worker."""
    async with forwarding(worker.url) as (forwarder,):
        yield forwarder


@pytest.fixture
async def cluster(
    connected: Callable[..., Awaitable[Cluster]], network: Forwarder, clock: ManualClock
) -> Cluster:
    return await connected(network.url)


@pytest.fixture
async def filled(cluster: Cluster, network: Forwarder, worker: EmbeddedWorker) -> None:
    """Many connections are kept, and the network has forgotten them all."""
    worker.faults.hang = ("/queue",)
    client = cluster.clients[cluster.instances[0]]
    asking = [asyncio.create_task(client.queue()) for _ in range(MANY)]
    await eventually(lambda: len(worker.faults._waiters) == MANY)
    worker.faults.clear()
    await asyncio.gather(*asking)
    assert network.dialled == MANY
    network.forget()


@pytest.mark.usefixtures("filled")
async def test_an_idle_pool_that_broke_is_no_strike_and_costs_no_answer(
    cluster: Cluster, network: Forwarder
) -> None:
    """Each question that met a broken connection is asked again over a new one."""
    client, (instance,) = cluster.clients[cluster.instances[0]], cluster.instances
    queues = await asyncio.gather(*(client.queue() for _ in range(MANY)))
    assert len(queues) == network.broken == MANY
    assert instance.healthy
    assert not instance.failing


@pytest.mark.usefixtures("filled")
async def test_a_check_does_not_depend_on_what_is_kept(
    cluster: Cluster, network: Forwarder
) -> None:
    """It opens a connection of its own, each time."""
    for number in (1, 2):
        assert await cluster.health_checker.check(cluster.instances[0])
        assert network.dialled == MANY + number
    assert network.broken == 0


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.usefixtures("filled")
async def test_what_may_change_something_uses_no_kept_connection(
    cluster: Cluster, network: Forwarder, method: str
) -> None:
    """It could not be sent again if that one were broken."""
    for _ in range(2):
        answer = await cluster.connections.request(
            cluster.instances[0], method, f"{network.url}/nothing", data=b"x"
        )
        await answer.read()
    assert (network.dialled, network.broken) == (MANY + 2, 0)


@pytest.mark.usefixtures("filled")
async def test_gets_of_nobody_knows_what_share_a_connection_of_just_now(
    cluster: Cluster, network: Forwarder
) -> None:
    """One that was idle for longer could be broken; a page of a hundred pictures is fast."""
    for _ in range(5):
        answer = await cluster.connections.request(
            cluster.instances[0], "GET", f"{network.url}/nothing", once=True
        )
        await answer.read()
    assert (network.dialled, network.broken) == (MANY + 1, 0)


async def test_gets_of_nobody_knows_what_trust_no_connection_of_before(
    monkeypatch: pytest.MonkeyPatch,
    connected: Callable[..., Awaitable[Cluster]],
    network: Forwarder,
) -> None:
    """After a moment without a request the next one opens a new connection."""
    monkeypatch.setattr(connection_manager, "RECENT_S", -1.0)  # every moment is too long ago
    cluster = await connected(network.url)
    for number in (1, 2):
        answer = await cluster.connections.request(
            cluster.instances[0], "GET", f"{network.url}/nothing", once=True
        )
        await answer.read()
        network.forget()
        assert network.dialled == number


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("GET", {"once": True}),
        ("GET", {"fresh": True}),
        ("POST", {}),
        ("PUT", {}),
        ("DELETE", {}),
        ("OPTIONS", {}),
    ],
)
async def test_what_is_to_be_sent_once_is_sent_once(
    cluster: Cluster, network: Forwarder, method: str, options: dict[str, Any]
) -> None:
    """aiohttp itself would repeat all of these but POST: a restart would happen twice."""
    network.doomed = lambda piece: b"/manager/reboot" in piece
    with pytest.raises(BrokenConnectionError):
        await cluster.connections.request(
            cluster.instances[0], method, f"{network.url}/manager/reboot", **options
        )
    assert (network.dialled, network.broken) == (1, 1)


async def test_a_get_is_sent_twice_and_not_for_ever(cluster: Cluster, network: Forwarder) -> None:
    """An instance that breaks new connections too is broken, and that is one strike a second."""
    network.doomed = lambda piece: b"/queue" in piece
    for _ in range(MANY):
        with pytest.raises(ConnectionBrokenError):
            await cluster.clients[cluster.instances[0]].queue()
    assert network.broken == 2 * MANY
    assert cluster.instances[0].breaker.consecutive_failures == 1


# --- jobs ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("filled")
async def test_a_job_runs_though_all_that_was_kept_is_broken(
    cluster: Cluster, network: Forwarder, worker: EmbeddedWorker
) -> None:
    """Its POST is sent over a new connection, and what is asked is asked again."""
    run = Run(cluster, graph())
    assert await run.task
    assert worker.submitted == [run.prompt.prompt_id]
    assert not cluster.instances[0].failing


def breaks_posts(network: Forwarder, count: int) -> None:
    """So many ``POST /prompt`` break before they arrive."""
    left = [count]

    def doomed(piece: bytes) -> bool:
        if not piece.startswith(b"POST /prompt") or not left[0]:
            return False
        left[0] -= 1
        return True

    network.doomed = doomed


async def test_a_jobs_prompt_that_was_not_taken_is_posted_again_under_its_id(
    cluster: Cluster, network: Forwarder, worker: EmbeddedWorker, clock: ManualClock
) -> None:
    """At the instance that says that it has no such prompt; it runs once."""
    breaks_posts(network, 1)
    run = Run(cluster, graph())
    await second_look(clock)
    assert await run.task
    assert worker.submitted == [run.prompt.prompt_id]
    assert cluster.instances[0].healthy


async def test_a_jobs_prompt_is_posted_twice_at_most(
    cluster: Cluster, network: Forwarder, worker: EmbeddedWorker, clock: ManualClock
) -> None:
    """Then the job goes elsewhere."""
    breaks_posts(network, 3)
    run = Run(cluster, graph())
    await second_look(clock)
    await second_look(clock)
    with pytest.raises(ConnectionBrokenError):
        await run.task
    assert network.broken == 2
    await nothing_left(cluster, worker)
    assert worker.submitted == []


async def test_a_jobs_prompt_is_not_posted_again_while_nobody_knows(
    cluster: Cluster, network: Forwarder, worker: EmbeddedWorker
) -> None:
    """The instance that broke off does not say what it has: it may have taken it."""
    worker.faults.break_prompts = 1
    worker.faults.answers = {"/queue": "non_json"}
    run = Run(cluster, graph())
    with pytest.raises(InstanceTimeoutError):
        await run.task
    assert worker.submitted == [run.prompt.prompt_id]
    await nothing_left(cluster)


@pytest.mark.parametrize(
    ("cause", "proof"),
    [
        (ConnectionRefusedError(), True),
        (dial(OSError(errno.ECONNREFUSED, "Connect call failed")), True),
        (
            dial(OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 99] no")),
            True,
        ),
        (dial(OSError(errno.EHOSTUNREACH, "no route")), False),
        (dial(OSError(errno.EMFILE, "too many open files")), False),
        (dial(OSError(errno.EADDRNOTAVAIL, "no port left")), False),
        (aiohttp.ClientConnectorDNSError(KEY, OSError("unknown name")), False),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_only_a_refused_dial_proves_a_death(cause: Exception, proof: bool) -> None:
    """What cannot be dialled for another reason may well run what it was sent."""
    error = InstanceUnreachableError("away")
    error.__cause__ = cause
    assert nobody_listens(error) is proof
    assert nothing_sent(error)


async def test_a_process_that_ends_when_a_prompt_is_posted(clock: ManualClock) -> None:
    """The connection breaks, and nobody listens any more: that is told apart from an outage."""
    refused = InstanceUnreachableError("refused")
    refused.__cause__ = ConnectionRefusedError()
    answers = iter([ConnectionBrokenError("broke"), refused])

    async def post() -> str:
        raise next(answers)

    async def find() -> str | None:
        raise refused

    with pytest.raises(InstanceDiedError):
        await submit_once(post, find, clock=clock)
