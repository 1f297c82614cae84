"""An instance fails between the first and the second file of a job: all of its results are of one
run, elsewhere, or the job fails with its reason; it is never half, and never hangs."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from job_client import JobClient, until

from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.output_file import OutputFile
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.stored_bytes import StoredBytes

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Awaitable[JobClient]]
COLOURS = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 16, "height": 8, "batch_size": 1, "color": 0},
    },
    "9": {
        "class_type": "SaveImage",
        "inputs": {"images": ["1", 0], "filename_prefix": "colour"},
    },
}


async def killed(worker: EmbeddedWorker) -> None:
    await worker.kill()


async def hanging(worker: EmbeddedWorker) -> None:
    worker.faults.hang = ("/",)


async def back_without_files(worker: EmbeddedWorker) -> None:
    await worker.restart(keep_files=False)


async def cut_off(worker: EmbeddedWorker) -> None:
    worker.faults.answers = {"/view": "cut"}


class Fetches:
    """Files that were fetched whole, as (instance, name); ``fault`` happens once, to an instance of
    which one was."""

    def __init__(self, workers: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        self.whole: list[tuple[str, str]] = []
        self.fault: Callable[[EmbeddedWorker], Awaitable[None]] | None = None
        self.faulty = ""
        by_host = {worker.host: worker for worker in workers}
        view = ComfyUIClient.view

        async def noting(client: ComfyUIClient, file: OutputFile, into: StoredBytes) -> None:
            host = client.instance.host
            if self.whole and self.fault is not None:
                fault, self.fault, self.faulty = self.fault, None, host
                await fault(by_host[host])
            await view(client, file, into)
            self.whole.append((host, file.filename))

        monkeypatch.setattr(ComfyUIClient, "view", noting)


@pytest.fixture
def fetches(workers: Pair, monkeypatch: pytest.MonkeyPatch) -> Fetches:
    return Fetches(workers, monkeypatch)


@pytest.fixture
async def jobs(start_jobs: Start, workers: Pair, templates: Path) -> JobClient:
    (templates / "colours.json").write_text(json.dumps(COLOURS))
    return await start_jobs(*workers, comfyui_timeout_s=0.5, hang_timeout_s=1.0)


FAULTS = [killed, hanging, back_without_files, cut_off]


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
async def test_all_results_are_of_one_run(
    jobs: JobClient, fetches: Fetches, fault: Callable[[EmbeddedWorker], Awaitable[None]]
) -> None:
    """In the list, in the ZIP and one by one."""
    fetches.fault = fault
    async with jobs.http.post("/api/workflows/colours", json={"batch_size": 3}) as answer:
        job_id = (await answer.json())["job_id"]
    end = await jobs.ends(job_id)
    assert (end["status"], len(end["results"])) == ("completed", 3), end
    elsewhere = [(host, name) for host, name in fetches.whole if host != fetches.faulty]
    assert fetches.whole[1:] == elsewhere, "the last three, and they are of the other instance"
    assert [one["name"] for one in end["results"]] == [name for _, name in elsewhere]
    assert end["comfyui_instance"] == elsewhere[0][0]
    async with jobs.http.get(f"/api/jobs/{job_id}/result/1") as answer:
        second = await answer.read()
    assert (answer.status, answer.headers["ETag"]) == (200, end["results"][1]["etag"])
    headers = {"Accept": "application/zip"}
    async with jobs.http.get(f"/api/jobs/{job_id}/result", headers=headers) as answer:
        archive = zipfile.ZipFile(io.BytesIO(await answer.read()))
    assert archive.read(archive.namelist()[1]) == second


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
async def test_the_synchronous_answer_too(
    jobs: JobClient, fetches: Fetches, fault: Callable[[EmbeddedWorker], Awaitable[None]]
) -> None:
    """With its list of results."""
    fetches.fault = fault
    headers = {"Accept": "application/json"}
    async with jobs.http.post(
        "/api/workflows/colours?mode=sync", json={"batch_size": 2}, headers=headers
    ) as answer:
        told: dict[str, Any] = await answer.json()
    assert answer.status == 200, told
    assert [one["name"] for one in told["results"]] == [name for _, name in fetches.whole[1:]]
    assert fetches.faulty not in {host for host, _ in fetches.whole[1:]}


async def test_an_instance_that_starts_again_before_its_results_were_asked_for(
    jobs: JobClient, workers: Pair
) -> None:
    """The prompt has ended, and its history and files are gone: it runs once more."""
    for worker in workers:
        worker.faults.hang = ("/history",)
    async with jobs.http.post("/api/workflows/colours", json={"batch_size": 2}) as answer:
        job_id = (await answer.json())["job_id"]
    await until(lambda: any(worker.executed for worker in workers))
    [maker] = [worker for worker in workers if worker.executed]
    maker.refuse_connections()
    maker.drop_connections()
    for worker in workers:
        worker.faults.clear()
    await maker.restart(keep_files=False)
    end = await jobs.ends(job_id)
    assert (end["status"], len(end["results"])) == ("completed", 2), end
    assert sum(len(worker.executed) for worker in workers) == 2


async def test_one_instance_alone_that_comes_back_without_its_files(
    start_jobs: Start, workers: Pair, templates: Path, fetches: Fetches
) -> None:
    """Runs it again: the first file of the new run is fetched too."""
    (templates / "colours.json").write_text(json.dumps(COLOURS))
    jobs = await start_jobs(workers[0])
    fetches.fault = back_without_files
    async with jobs.http.post("/api/workflows/colours", json={"batch_size": 2}) as answer:
        end = await jobs.ends((await answer.json())["job_id"])
    assert (end["status"], len(end["results"]), len(fetches.whole)) == ("completed", 2, 3)


async def test_an_instance_whose_files_are_never_there_fails_the_job(
    start_jobs: Start, workers: Pair, templates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a few runs, with its reason, and nothing of the first file is kept."""
    (templates / "colours.json").write_text(json.dumps(COLOURS))
    jobs = await start_jobs(*workers)
    view, fetched = ComfyUIClient.view, list[StoredBytes]()

    async def first_only(client: ComfyUIClient, file: OutputFile, into: StoredBytes) -> None:
        if len(fetched) % 2:
            for one in workers:
                for made in one.folders.base.glob("output/*.png"):
                    made.unlink()
        fetched.append(into)
        await view(client, file, into)

    monkeypatch.setattr(ComfyUIClient, "view", first_only)
    async with jobs.http.post("/api/workflows/colours", json={"batch_size": 2}) as answer:
        job_id = (await answer.json())["job_id"]
    end = await jobs.ends(job_id)
    assert (end["status"], end["results"]) == ("failed", None)
    assert "does not have the result" in end["error"]["message"]
    assert all(one.closed for one in fetched)
    async with jobs.http.get(f"/api/jobs/{job_id}/result") as answer:
        assert (await answer.json())["code"] == "job_failed"
