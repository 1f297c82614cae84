"""An instance whose first run was slow, and that was away then: its share when it is back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from job_client import JobClient, until
from prompts_front import Workers, ended, graph, post, recover, show

from comfy_proxy.cluster.planning import figures
from comfy_proxy.cluster.planning.experience import FIRST_RUNS
from comfy_proxy.cluster.planning.samples import ENOUGH_RUNS
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import CLUSTER

SLOW_S = 0.3
"""By this each node of a first run takes longer: by more than counts as equal."""
Run = Callable[[JobClient], Awaitable[None]]


@pytest.fixture(autouse=True)
def _nothing_is_kept_for_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is learned at one instance is seen in the figures of another one at once."""
    monkeypatch.setattr(figures, "KEPT_S", 1e-6)


async def of_a_client(jobs: JobClient) -> None:
    """A prompt, from its post to its end."""
    await ended(jobs.http, await post(jobs.http, graph()))
    await is_learned(jobs)


async def of_a_job(jobs: JobClient) -> None:
    assert (await jobs.ends(await jobs.submit()))["status"] == "completed"
    await is_learned(jobs)


async def is_learned(jobs: JobClient) -> None:
    lines = jobs.http.app[CLUSTER].planner.lines.values()
    await until(lambda: not any(map(len, lines)))


async def hide(jobs: JobClient, worker: EmbeddedWorker) -> None:
    """It is away, and the proxy had known it."""
    await recover(jobs.http, worker)
    worker.refuse_connections()
    worker.drop_connections()


async def first_and_then_away(jobs: JobClient, workers: Workers, run: Run) -> None:
    """The first one has run once, slowly; the other one often, while the first one was away."""
    one, two = workers
    await hide(jobs, two)
    one.faults.slow_node_s = SLOW_S
    await run(jobs)
    one.faults.slow_node_s = 0.0
    await show(jobs.http, two)
    await hide(jobs, one)
    for _ in range(FIRST_RUNS + ENOUGH_RUNS):
        await run(jobs)


async def gets_its_share(jobs: JobClient, worker: EmbeddedWorker, run: Run) -> bool:
    """Of prompts one after the other it has some."""
    before = len(worker.started)
    for _ in range(4 * ENOUGH_RUNS):
        await run(jobs)
    return len(worker.started) - before >= ENOUGH_RUNS


@pytest.mark.long
@pytest.mark.parametrize("run", [of_a_client, of_a_job])
async def test_one_that_returns_gets_its_share(jobs: JobClient, workers: Workers, run: Run) -> None:
    await first_and_then_away(jobs, workers, run)
    await show(jobs.http, workers[0])
    assert await gets_its_share(jobs, workers[0], run)


@pytest.mark.long
async def test_it_gets_it_from_a_proxy_that_was_restarted(
    start_jobs: Callable[..., Awaitable[JobClient]], workers: Workers, tmp_path: Path
) -> None:
    """What the state file tells of its first run is what was known before."""
    settings: dict[str, Any] = {"state_file": tmp_path / "state" / "proxy.sqlite"}
    jobs = await start_jobs(*workers, **settings)
    await first_and_then_away(jobs, workers, of_a_client)
    await workers[0].accept_connections()
    await jobs.http.server.close()
    await jobs.http.close()
    jobs = await start_jobs(*workers, **settings)
    await recover(jobs.http, workers[0])
    assert await gets_its_share(jobs, workers[0], of_a_client)
