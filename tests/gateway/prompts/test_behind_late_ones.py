"""Jobs and clients' own prompts behind one that runs for longer than it should.

The next health check comes after half a minute, and the test's patience is shorter.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from job_client import JobClient, until
from prompts_front import LONG_S, Workers, ended, graph, interrupt, post

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.planning.work import Work
from comfy_proxy.keys import CLUSTER

pytestmark = pytest.mark.long
SHORT_S, SLOWER_S = 0.01, 0.6
"""What all work is believed to take at the first instance, and at the second one: so much that
nothing had better go there until what runs at the first one is late by about as much."""
Begin = Callable[[JobClient, Workers], Awaitable[str]]


async def job_runs(jobs: JobClient, workers: Workers) -> str:
    """The id of a job that runs at the first instance until the test ends it."""
    return await begun(jobs, workers, await jobs.submit(seconds=LONG_S))


async def prompt_runs(jobs: JobClient, workers: Workers) -> str:
    """The id of a client's own prompt; nobody is told of its beginning: it has no socket."""
    return await begun(jobs, workers, await post(jobs.http, graph(LONG_S)))


async def begun(jobs: JobClient, workers: Workers, one_id: str) -> str:
    await until(lambda: workers[0].started)
    return one_id


async def ends(jobs: JobClient, one_id: str) -> None:
    """Whichever it is."""
    await jobs.http.delete(f"/api/jobs/{one_id}")
    await interrupt(jobs.http, one_id)


def learn(cluster: Cluster, *works: Work | None) -> None:
    for work in works:
        assert work is not None
        for instance, seconds in zip(cluster.instances, (SHORT_S, SLOWER_S), strict=True):
            for _ in range(9):
                cluster.planner.costs.learn(
                    instance, work, seconds, loaded=(), now=cluster.clock.monotonic()
                )


def work_there(cluster: Cluster, instance: Instance) -> Work:
    line = cluster.planner.lines[instance]
    return (line.running or line.waiting[0]).work


@pytest.fixture
async def cluster(jobs: JobClient, workers: Workers) -> Cluster:
    """All of it is known by the figures above, and the second instance is drained."""
    cluster = jobs.http.app[CLUSTER]
    one, two = cluster.instances
    await ended(jobs.http, await post(jobs.http, graph(0)))
    await cluster.drains.drain(two)
    works: list[Work | None] = [cluster.graph_support.work(graph(s)) for s in (LONG_S, 0)]
    for seconds in (LONG_S, 0.3):
        job_id = await jobs.submit(seconds=seconds)
        await until(lambda: len(cluster.planner.lines[one]))
        works.append(work_there(cluster, one))
        await jobs.delete(job_id)
        await until(lambda: not one.load)
    learn(cluster, *works)
    for worker in workers:
        worker.started.clear()
    return cluster


@pytest.mark.parametrize("begin", [job_runs, prompt_runs])
async def test_a_job_behind_a_late_one_is_done_elsewhere(
    jobs: JobClient, workers: Workers, cluster: Cluster, begin: Begin
) -> None:
    """Before that has ended."""
    late = await begin(jobs, workers)
    behind = await jobs.submit(seconds=0.3)
    await until(lambda: len(workers[0].submitted) >= 2 and cluster.instances[0].load == 2)
    cluster.drains.resume(cluster.instances[1])
    assert (await jobs.ends(behind))["comfyui_instance"] == workers[1].host
    assert len(workers[0].started) == len(workers[1].started) == 1
    await ends(jobs, late)


@pytest.mark.parametrize("begin", [job_runs, prompt_runs])
async def test_a_clients_prompt_behind_a_late_one_is_done_elsewhere(
    jobs: JobClient, workers: Workers, cluster: Cluster, begin: Begin
) -> None:
    """Under the id that its client knows."""
    late = await begin(jobs, workers)
    behind = await post(jobs.http, graph(0))
    cluster.drains.resume(cluster.instances[1])
    await ended(jobs.http, behind)
    assert behind in workers[1].started
    await ends(jobs, late)


@pytest.mark.parametrize("begin", [job_runs, prompt_runs])
async def test_a_job_and_a_clients_prompt_behind_a_late_one_are_both_done_elsewhere(
    jobs: JobClient, workers: Workers, cluster: Cluster, begin: Begin
) -> None:
    """One after the other."""
    late = await begin(jobs, workers)
    job = await jobs.submit(seconds=0.3)
    prompt = await post(jobs.http, graph(0))
    await until(lambda: cluster.instances[0].load == 3)
    cluster.drains.resume(cluster.instances[1])
    assert (await jobs.ends(job))["comfyui_instance"] == workers[1].host
    await ended(jobs.http, prompt)
    assert prompt in workers[1].started
    await ends(jobs, late)
