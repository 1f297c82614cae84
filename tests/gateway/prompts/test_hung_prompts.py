"""An instance hangs (SIGSTOP): what waits and runs there goes on elsewhere, and counts there only.

Real processes: a worker inside of this one could not stop while the proxy goes on.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient
from forwarder import forwarding
from prompts_front import COMPLETE, ended, get, graph, listening, post, until
from v2_client import V2

from comfy_proxy.embedded.process import WorkerProcess
from comfy_proxy.gateway.files.upload_body import PASSED_BYTES
from comfy_proxy.keys import CLUSTER, COMFY_API, GATEWAY

pytestmark = pytest.mark.long

Pair = tuple[WorkerProcess, WorkerProcess]
Start = Callable[..., Awaitable[TestClient[Any, Any]]]
HUNG_S = 0.3
RUN_S = 0.6
ORDERED_S = 2.0
"""What runs is to run still when its instance hangs, and when a client orders something."""


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """Two processes; whichever was stopped goes on before it is ended."""
    async with AsyncExitStack() as stack:
        made = [
            WorkerProcess(base_directory=tmp_path / name, name=name, test_nodes=True)
            for name in ("one", "two")
        ]
        await asyncio.gather(*(stack.enter_async_context(one) for one in made))
        try:
            yield made[0], made[1]
        finally:
            for one in made:
                if one.running:
                    one.thaw()


@pytest.fixture
async def proxy(pair: Pair, start_proxy: Start) -> TestClient[Any, Any]:
    http = await start_proxy(
        *(one.url for one in pair),
        hang_timeout_s=HUNG_S,
        health_check_interval_s=0.1,
        health_failure_threshold=1,
    )
    await until(lambda: all(one.check_ok for one in http.app[CLUSTER].instances))
    return http


async def told(worker: WorkerProcess, path: str) -> Any:
    """What a worker says itself."""
    async with aiohttp.ClientSession() as session, session.get(f"{worker.url}{path}") as answer:
        return await answer.json()


async def holds(worker: WorkerProcess, prompt_id: str) -> bool:
    """Whether it is in the queue or in the history of that worker."""
    queue = await told(worker, "/queue")
    rows = [*queue["queue_running"], *queue["queue_pending"]]
    return prompt_id in {row[1] for row in rows} | (await told(worker, "/history")).keys()


async def placed(
    proxy: TestClient[Any, Any], pair: Pair, fields: dict[str, Any], *, seconds: float = RUN_S
) -> list[str]:
    """Ids of two that run, one at each, and of two that wait, one at each: those of the first
    worker first."""
    prompt_ids = [await post(proxy, graph(seconds), **fields) for _ in range(4)]
    at_first = [one for one in prompt_ids if await holds(pair[0], one)]
    assert len(at_first) == 2
    return [*at_first, *(one for one in prompt_ids if one not in at_first)]


async def fenced(proxy: TestClient[Any, Any], worker: WorkerProcess) -> None:
    """It is back, and takes work again."""
    instance = next(
        one for one in proxy.app[CLUSTER].instances if str(one.url) == worker.url.rstrip("/")
    )
    await until(lambda: instance.healthy and not instance.draining)


@pytest.mark.parametrize("listens", [True, False], ids=["socket", "polls"])
async def test_what_waits_and_runs_at_an_instance_that_hangs_ends_elsewhere(
    proxy: TestClient[Any, Any], pair: Pair, listens: bool
) -> None:
    """Under the same ids. When the instance goes on it ends them there, and no client hears of
    that."""
    async with listening(proxy) as listener:
        fields = {"client_id": listener.client_id} if listens else {}
        prompt_ids = await placed(proxy, pair, fields)
        pair[0].freeze()
        entries = await ended(proxy, *prompt_ids)
        assert {one["status"]["status_str"] for one in entries.values()} == {"success"}
        pair[0].thaw()
        await fenced(proxy, pair[0])
        for prompt_id in prompt_ids:
            assert not await holds(pair[0], prompt_id)
        if listens:
            await until(lambda: all(listener.over(one) for one in prompt_ids))
            ends = [f["data"]["prompt_id"] for f in listener.frames if _is_end(f)]
            assert sorted(ends) == sorted(prompt_ids)
            assert listener.kinds(prompt_ids[1]) == COMPLETE


async def test_what_went_on_elsewhere_is_deleted_though_no_answer_comes(
    pair: Pair, start_proxy: Start
) -> None:
    """An instance whose answers alone are lost acts on the deletion; else it would run the prompt
    as well."""
    async with forwarding(pair[0].url) as (network,):
        proxy = await start_proxy(network.url, pair[1].url, health_failure_threshold=1)
        instance = proxy.app[CLUSTER].instances[0]
        await until(lambda: all(one.check_ok for one in proxy.app[CLUSTER].instances))
        _, waits, *_ = await placed(proxy, pair, {})
        network.unanswered = True
        assert not await proxy.app[CLUSTER].health_checker.check(instance)
        await ended(proxy, waits)
        assert not await holds(pair[0], waits)
        assert not instance.healthy
        network.unanswered = False
        assert await holds(pair[1], waits)


async def test_while_one_hangs_reads_and_uploads_do_without_it(
    proxy: TestClient[Any, Any], pair: Pair
) -> None:
    """Whichever instance hangs. A read takes part of a second, which the benchmark measures. An
    upload that passes while it comes begins at the one that hangs, and is all at the other."""
    for worker in pair:
        worker.freeze()
        for path in ("/queue", "/history", "/prompt", "/system_stats", "/settings"):
            assert isinstance(await get(proxy, path), dict)
        for content in (b"\x89PNG", bytes(PASSED_BYTES)):
            form = aiohttp.FormData()
            form.add_field("image", io.BytesIO(content), filename="a.png")
            async with proxy.post("/upload/image", data=form) as answer:
                assert answer.status == 200
        worker.thaw()
        await fenced(proxy, worker)


# --- what clients order meanwhile -----------------------------------------------------------------


@pytest.fixture
async def patient(pair: Pair, start_proxy: Start) -> TestClient[Any, Any]:
    """It waits for an instance that hangs for as long as a test takes."""
    http = await start_proxy(*(one.url for one in pair), hang_timeout_s=600.0)
    await until(lambda: all(one.check_ok for one in http.app[CLUSTER].instances))
    return http


async def ordered(http: TestClient[Any, Any], path: str, body: Any = None) -> Any:
    async with http.post(path, json=body) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json() if answer.content_type == "application/json" else None


async def in_queue(http: TestClient[Any, Any]) -> list[str]:
    queue = await get(http, "/queue")
    return [row[1] for row in (*queue["queue_running"], *queue["queue_pending"])]


@pytest.mark.parametrize("by_id", [True, False])
async def test_the_queue_is_cleared_of_what_waits_alone(
    patient: TestClient[Any, Any], pair: Pair, by_id: bool
) -> None:
    """What runs at the instance that hangs, though nobody has heard it begin, is shown, and runs
    again when its process ends; what waited there is deleted there too when it goes on."""
    runs, waits, *others = await placed(patient, pair, {}, seconds=ORDERED_S)
    pair[0].freeze()
    ids = [runs, waits, *others]
    await ordered(patient, "/queue", {"delete": ids} if by_id else {"clear": True})
    assert runs in await in_queue(patient)
    assert not {waits, others[1]} & set(await in_queue(patient))
    await pair[0].kill()
    await ended(patient, runs)
    assert not await holds(pair[1], waits)
    assert not await holds(pair[1], others[1])


async def test_what_is_deleted_while_its_instance_hangs_never_runs(
    patient: TestClient[Any, Any], pair: Pair
) -> None:
    runs, waits, *_ = await placed(patient, pair, {}, seconds=ORDERED_S)
    pair[0].freeze()
    await ordered(patient, "/queue", {"delete": [waits]})
    assert waits not in await in_queue(patient)
    pair[0].thaw()
    await fenced(patient, pair[0])
    await ended(patient, runs)
    assert [await holds(one, waits) for one in pair] == [False, False]


@pytest.mark.parametrize("beside", [True, False])
async def test_an_entry_is_deleted_when_its_instance_goes_on(
    patient: TestClient[Any, Any], pair: Pair, beside: bool
) -> None:
    """Of the history, alone or beside one of an instance that answers."""
    prompt_ids = await placed(patient, pair, {})
    await ended(patient, *prompt_ids)
    kept, gone, *others = prompt_ids
    ids = [gone, others[0]] if beside else [gone]
    pair[0].freeze()
    await ordered(patient, "/history", {"delete": ids})
    assert not set(ids) & (await get(patient, "/history")).keys()
    pair[0].thaw()
    late = patient.app[GATEWAY].commands.late
    await until(lambda: repr(late) == "<LateDeletions 0 entries>")
    assert (await get(patient, "/history")).keys() == set(prompt_ids) - set(ids)
    assert await holds(pair[0], kept)


@pytest.mark.parametrize("many", [True, False])
async def test_a_job_that_hangs_is_cancelled(
    patient: TestClient[Any, Any], pair: Pair, many: bool
) -> None:
    """By ComfyUI's own routes: it ends here at once, and there when the instance goes on."""
    prompt_ids = await placed(patient, pair, {}, seconds=ORDERED_S)
    pair[0].freeze()
    for one in prompt_ids[:2]:
        path, body = ("cancel", {"job_ids": [one]}) if many else (f"{one}/cancel", None)
        assert await ordered(patient, f"/api/jobs/{path}", body) == {"cancelled": True}
    assert not set(prompt_ids[:2]) & set(await in_queue(patient))
    pair[0].thaw()
    await fenced(patient, pair[0])
    await ended(patient, *prompt_ids[2:])
    for one in prompt_ids[:2]:
        assert [await holds(worker, one) for worker in pair] == [False, False]


async def test_a_job_of_the_comfy_api_is_cancelled_wherever_it_hangs(
    patient: TestClient[Any, Any], pair: Pair
) -> None:
    v2 = V2(patient)
    jobs = [(await v2.submit(graph(ORDERED_S)))["id"] for _ in range(4)]
    await until(lambda: sum(job.runs for job in patient.app[COMFY_API].jobs) == 2)
    hung = [one for one in jobs if await holds(pair[0], one)]
    pair[0].freeze()
    for one in hung:
        await v2.cancel(one)
        assert (await v2.ends(one))["status"] == "canceled"
    pair[0].thaw()
    await fenced(patient, pair[0])
    for one in jobs:
        assert (await v2.ends(one))["status"] == ("canceled" if one in hung else "succeeded")
    for one in hung:
        assert [await holds(worker, one) for worker in pair] == [False, False]


async def test_one_that_hangs_is_removed_by_force(pair: Pair, start_proxy: Start) -> None:
    """The removal waits for no answer. What waits and runs there goes elsewhere, though
    HANG_TIMEOUT is never, and the instance is told once what to end."""
    http = await start_proxy(*(one.url for one in pair), hang_timeout_s=0.0)
    await until(lambda: all(one.check_ok for one in http.app[CLUSTER].instances))
    async with listening(http) as listener:
        prompt_ids = await placed(http, pair, {"client_id": listener.client_id})
        pair[0].freeze()
        async with http.delete("/api/instances/1?force=true") as answer:
            assert answer.status == 204
        await ended(http, *prompt_ids)
        pair[0].thaw()
        await until(lambda: all(listener.over(one) for one in prompt_ids))
        ends = [f["data"]["prompt_id"] for f in listener.frames if _is_end(f)]
        assert sorted(ends) == sorted(prompt_ids)
        await until(lambda: listener.sums()[-1] == 0)


def _is_end(frame: dict[str, Any]) -> bool:
    return frame["type"] in ("execution_success", "execution_error", "execution_interrupted")
