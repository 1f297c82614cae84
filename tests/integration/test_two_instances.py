"""Both instances work, and every result is what the instance itself would have answered."""

from __future__ import annotations

import asyncio

import pytest
from direct_run import run_again
from job_client import JobClient, noise, open_picture, until

from comfy_proxy.embedded.worker import EmbeddedWorker

Pair = tuple[EmbeddedWorker, EmbeddedWorker]


@pytest.mark.long
async def test_jobs_are_spread_over_both(jobs: JobClient, workers: Pair) -> None:
    """Twenty jobs of the same length: each instance runs its share, nobody runs one twice."""
    ids = await asyncio.gather(*(jobs.submit(seconds=0.03) for _ in range(20)))
    ends = [await jobs.ends(job_id) for job_id in ids]
    assert {end["status"] for end in ends} == {"completed"}
    for worker in workers:
        served = {end["prompt_id"] for end in ends if end["comfyui_instance"] == worker.host}
        assert len(served) >= 7
        assert served == set(worker.started)
    assert sum(len(worker.started) for worker in workers) == 20


@pytest.mark.long
async def test_results_are_those_of_a_direct_run(jobs: JobClient, workers: Pair) -> None:
    """Pixel by pixel, for jobs of two kinds, with and without alpha, on both instances."""
    kinds = [
        ("upscale-image", noise(24, 16), {"scale": 1.5}),
        ("upscale-image", noise(24, 16, "RGBA"), {"scale": 2}),
        ("upscale-image", noise(30, 20), {"scale": 0.5}),
        ("remove-background", noise(32, 32), {"crop": "false"}),
    ] * 2
    ids = [await jobs.submit(name, picture, **fields) for name, picture, fields in kinds]
    at = {worker.host: worker for worker in workers}
    used = set()
    for job_id in ids:
        end = await jobs.ends(job_id)
        used.add(end["comfyui_instance"])
        direct = open_picture(await run_again(at[end["comfyui_instance"]], end["prompt_id"]))
        ours = open_picture(await jobs.result(job_id))
        assert (ours.mode, ours.size) == (direct.mode, direct.size)
        assert ours.tobytes() == direct.tobytes()
    assert used == set(at)


def pictures_of(worker: EmbeddedWorker) -> list[str]:
    """The uploads of jobs."""
    return [path for path in worker.uploads if path.startswith("input/comfy_proxy/")]


async def test_uploads_overlap_the_work(jobs: JobClient, workers: Pair) -> None:
    """While a prompt runs the next ones of that instance are uploaded and queued already."""
    ids = [await jobs.submit(picture=noise(), seconds=60) for _ in range(6)]
    await until(lambda: all(len(worker.submitted) == 3 for worker in workers))
    await until(lambda: all(worker.started for worker in workers))  # a thread may be slower
    assert [len(worker.started) for worker in workers] == [1, 1]
    assert [len(pictures_of(worker)) for worker in workers] == [3, 3]
    for job_id in ids:
        await jobs.delete(job_id)


async def test_a_large_upload_does_not_hold_up_others(jobs: JobClient, workers: Pair) -> None:
    """A job whose upload hangs at one instance stops no other job, there or elsewhere."""
    workers[0].faults.hang = ("/upload",)
    stuck = await jobs.submit(picture=noise(), seconds=0)
    await until(lambda: workers[0].faults._waiters or workers[1].executed)
    others = [await jobs.submit(picture=noise()) for _ in range(2)]
    await until(lambda: workers[1].executed)
    workers[0].faults.clear()
    for job_id in (stuck, *others):
        assert (await jobs.ends(job_id))["status"] == "completed"


async def test_a_picture_is_uploaded_once_under_one_name(jobs: JobClient, workers: Pair) -> None:
    """The same picture again is the same file at the instance: nothing piles up."""
    picture = noise()
    ids = [await jobs.submit(picture=picture) for _ in range(8)]
    for job_id in ids:
        await jobs.ends(job_id)
    for worker in workers:
        assert len(set(pictures_of(worker))) == 1
