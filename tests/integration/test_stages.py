"""An instance fails in each stage of a job: it is done elsewhere, and its result is right."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from job_client import JobClient, kill, noise, open_picture, until

from comfy_proxy.embedded.worker import EmbeddedWorker

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Awaitable[JobClient]]


@pytest.fixture
async def bad_then_good(start_jobs: Start, workers: Pair) -> JobClient:
    """The first instance is the one that is chosen first, and the one to be broken."""
    jobs = await start_jobs(*workers, health_check_timeout_s=2.0)
    await until(lambda: all(jobs.instance(worker).check_ok for worker in workers))
    jobs.service.cluster.load_balancer._turn = 0
    return jobs


async def done_elsewhere(jobs: JobClient, workers: Pair, job_id: str, attempts: int = 2) -> None:
    end = await jobs.ends(job_id)
    assert (end["status"], end["comfyui_instance"]) == ("completed", workers[1].host), end
    assert end["attempts"] == attempts
    await until(lambda: workers[1].executed == [end["prompt_id"]])


@pytest.mark.long
@pytest.mark.parametrize(
    "faults",
    [
        {"answers": {"/upload": "html"}},
        {"answers": {"/upload": "non_json"}},
        {"answers": {"/upload": "empty"}},
        {"answers": {"/upload": "500"}},
        {"answers": {"/upload": "503"}},
        {"answers": {"/upload": "cut"}},
        {"answers": {"/upload": "break"}},
        {"answers": {"/prompt": "html"}},
        {"answers": {"/prompt": "non_json"}},
        {"answers": {"/prompt": "empty"}},
        {"answers": {"/prompt": "500"}},
        {"answers": {"/ws": "500"}},
        {"disk_full": True},
    ],
    ids=lambda faults: "-".join(f"{k}{v}" for k, v in (faults.get("answers") or faults).items()),
)
async def test_one_instance_answers_nonsense(
    bad_then_good: JobClient, workers: Pair, faults: dict[str, Any]
) -> None:
    """HTML, broken JSON, nothing, errors and a full disk on one instance: done on the other."""
    workers[0].faults.update(faults)
    picture = noise()
    job_id = await bad_then_good.submit(picture=picture)
    await done_elsewhere(bad_then_good, workers, job_id)
    made = open_picture(await bad_then_good.result(job_id))
    assert made.tobytes() == open_picture(picture).tobytes()


@pytest.mark.long
@pytest.mark.parametrize("path", ["/object_info", "/upload", "/prompt"])
async def test_an_endless_answer(start_jobs: Start, workers: Pair, path: str) -> None:
    """A body without end is cut off by COMFYUI_TIMEOUT, not collected, and done elsewhere."""
    jobs = await start_jobs(*workers, comfyui_timeout_s=1.0)
    workers[0].faults.answers = {path: "endless"}
    workers[0].faults.slow_node_s = 0
    ids = [await jobs.submit() for _ in range(2)]
    for job_id in ids:
        end = await jobs.ends(job_id)
        assert (end["status"], end["comfyui_instance"]) == ("completed", workers[1].host)


async def test_dead_before_the_check(bad_then_good: JobClient, workers: Pair) -> None:
    """An instance that died unnoticed is passed over: one attempt, at the other one."""
    await kill(workers[0])
    job_id = await bad_then_good.submit()
    await done_elsewhere(bad_then_good, workers, job_id, attempts=1)


@pytest.mark.parametrize("path", ["/upload", "/ws", "/prompt"])
async def test_dies_while_it_is_asked(bad_then_good: JobClient, workers: Pair, path: str) -> None:
    """Killed during the upload, the handshake or the submission: done elsewhere."""
    workers[0].faults.hang = (path,)
    job_id = await bad_then_good.submit()
    await until(lambda: workers[0].faults._waiters)
    await kill(workers[0])
    await done_elsewhere(bad_then_good, workers, job_id)


async def test_the_answer_to_the_prompt_breaks(bad_then_good: JobClient, workers: Pair) -> None:
    """A prompt that was queued although its answer broke off is no second result."""
    workers[0].faults.break_prompts = 1
    job_id = await bad_then_good.submit()
    end = await bad_then_good.ends(job_id)
    assert end["status"] == "completed"
    at = next(worker for worker in workers if worker.host == end["comfyui_instance"])
    assert end["prompt_id"] in at.started
    assert open_picture(await bad_then_good.result(job_id)).size == (16, 12)


async def test_dies_while_the_prompt_waits_there(bad_then_good: JobClient, workers: Pair) -> None:
    """Queued behind another prompt when its instance dies: both are done elsewhere."""
    jobs = bad_then_good
    workers[1].faults.answers = {"/system_stats": "500"}  # so that both go to the first one
    ids = [await jobs.submit(seconds=60) for _ in range(2)]
    await until(lambda: len(workers[0].submitted) == 2)
    workers[1].faults.clear()
    await kill(workers[0])
    await until(lambda: len(workers[1].submitted) == 2)
    for job_id in ids:
        status = await jobs.status(job_id)
        assert (status["status"], status["attempts"]) == ("processing", 2)
        await jobs.delete(job_id)


async def test_dies_at_a_node(bad_then_good: JobClient, workers: Pair) -> None:
    """Killed in the middle of the work: done elsewhere, progress begins anew."""
    workers[0].faults.die_at_node = "TimedPass"
    await done_elsewhere(bad_then_good, workers, await bad_then_good.submit())


@pytest.mark.long
async def test_dies_before_the_result_is_fetched(bad_then_good: JobClient, workers: Pair) -> None:
    """The prompt ended but its file cannot be had any more: done elsewhere."""
    workers[0].faults.hang = ("/view",)
    job_id = await bad_then_good.submit("upscale-image", noise(1100, 1000))
    await until(lambda: workers[0].faults._waiters)
    await kill(workers[0])
    await done_elsewhere(bad_then_good, workers, job_id)


@pytest.mark.long
async def test_a_dropped_socket_is_no_failure(start_jobs: Start, workers: Pair) -> None:
    """The socket breaks while the prompt runs: the job is settled and completes (trap 4)."""
    worker = workers[0]
    jobs = await start_jobs(worker)
    job_id = await jobs.submit("upscale-image", noise(1100, 1000))  # its result comes by file
    await until(lambda: worker.started)
    worker.drop_sockets()
    end = await jobs.ends(job_id)
    assert (end["status"], end["attempts"]) == ("completed", 1)
    await until(lambda: worker.executed == [end["prompt_id"]])


async def test_a_picture_lost_with_its_socket_is_made_again(
    start_jobs: Start, workers: Pair
) -> None:
    """A small result comes by the socket alone: lost with it, the job runs once more."""
    jobs = await start_jobs(workers[0])
    job_id = await jobs.submit(seconds=0.2)
    await until(lambda: workers[0].started)
    workers[0].drop_sockets()
    end = await jobs.ends(job_id)
    assert (end["status"], end["attempts"]) == ("completed", 2)
    assert open_picture(await jobs.result(job_id)).size == (16, 12)


async def test_an_instance_that_hangs(start_jobs: Start, workers: Pair) -> None:
    """One that accepts the prompt and then falls silent for good is left for the other."""
    jobs = await start_jobs(*workers, comfyui_timeout_s=0.2)
    job_id = await jobs.submit(seconds=60)
    await until(lambda: workers[0].started or workers[1].started)
    hung, other = workers if workers[0].started else reversed(workers)
    hung.faults.silent_sockets = True
    hung.faults.hang = ("/",)
    await until(lambda: other.started)
    job = jobs.service.manager.get_job(job_id)
    assert (job.instance, job.attempts) == (other.host, 2)
    await jobs.delete(job_id)
