"""Jobs with several files and several results after a restart, and those of the version before."""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData
from job_client import PNG, noise, open_picture, until
from restarting import Restarting

FILES = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
    "2": {"class_type": "LoadImage", "inputs": {"image": "b.png"}},
    "3": {"class_type": "TimedPass", "inputs": {"image": ["1", 0], "seconds": 0.0, "salt": 0},
          "_meta": {"title": "$timed"}},
    "8": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "one"}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "two"}},
}  # fmt: skip
TELL = {
    "1": {
        "class_type": "TellNode",
        "inputs": {"ui": "{}", "files": "{}", "seed": 0},
        "_meta": {"title": "$"},
    }
}
LONG_S = 60.0


@pytest.fixture
def templates(proxy: Restarting) -> Path:
    """The workflow directory, with ``two`` (files in and out) and ``tell``."""
    directory: Path = proxy.settings["workflow_directory"]
    (directory / "two.json").write_text(json.dumps(FILES))
    (directory / "tell.json").write_text(json.dumps(TELL))
    return directory


def two(first: bytes, second: bytes, seconds: float) -> FormData:
    data = FormData({"timed_seconds": str(seconds)})
    for name, content in (("image", first), ("image_2", second)):
        data.add_field(name, io.BytesIO(content), filename="p.png")
    return data


async def post(proxy: Restarting, name: str, **sent: Any) -> str:
    async with proxy.http.post(f"/api/workflows/{name}", **sent) as answer:
        body = await answer.json()
        assert answer.status == 202, body
        return str(body["job_id"])


async def results(proxy: Restarting, job_id: str) -> list[bytes]:
    read = []
    for one in (await proxy.jobs.status(job_id))["results"]:
        async with proxy.http.get(one["url"]) as answer:
            assert (answer.status, answer.headers["ETag"]) == (200, one["etag"])
            read.append(await answer.read())
    return read


async def test_several_results(proxy: Restarting, templates: Path) -> None:
    """Each with its bytes, its name and its validator, also an empty text; and what is
    deleted leaves nothing in the file."""
    await proxy.start()
    ui = {
        "text": ["", "ä"],
        "boxes": [[1]],
        "gifs": [{"filename": "a.mp4", "subfolder": "", "type": "output"}],
    }
    sent = {"ui": json.dumps(ui), "files": json.dumps({"a.mp4": "x" * 50_000})}
    job_id = await post(proxy, "tell", json=sent)
    before = await proxy.jobs.ends(job_id)
    made = await results(proxy, job_id)
    assert sorted(map(len, made)) == [0, 2, len(b'{"boxes":[[1]]}'), 50_000]
    for _ in range(2):
        await proxy.restart()
        assert await proxy.jobs.status(job_id) == before
        assert await results(proxy, job_id) == made
    await proxy.jobs.delete(job_id)
    await proxy.stop()
    assert rows(proxy) == []
    await proxy.start()


def rows(proxy: Restarting) -> list[str]:
    """What the state file holds of jobs, by kind."""
    with closing(sqlite3.connect(proxy.settings["state_file"])) as file:
        found = file.execute("SELECT kind FROM entries WHERE kind LIKE 'job%' ORDER BY kind")
        return [kind for (kind,) in found]


async def test_several_files(proxy: Restarting, templates: Path) -> None:
    """A job that had not ended goes on with the files that it was given, each in its place."""
    await proxy.start(max_concurrent_jobs=1)
    first, second = noise(), noise()
    running = await post(proxy, "two", data=two(noise(), noise(), LONG_S))
    await proxy.jobs.reaches(running, "processing")
    waiting = await post(proxy, "two", data=two(first, second, 0))
    await proxy.stop()
    await until(lambda: not any(worker.queue_remaining for worker in proxy.workers))
    await proxy.start()
    await proxy.jobs.delete(running)
    end = await proxy.jobs.ends(waiting)
    assert (end["status"], end["variant"]) == ("completed", "graph")
    made = [open_picture(data).tobytes() for data in await results(proxy, waiting)]
    assert made == [open_picture(data).tobytes() for data in (first, second)]


async def test_a_drawn_seed_stays_the_jobs(proxy: Restarting, templates: Path) -> None:
    """A job that is made again after a restart has the number that its client was told."""
    (templates / "random.json").write_text(
        json.dumps(
            {
                "parameters": {"seed": {"type": "integer", "random": True}},
                "variants": [{"graph": TELL, "bind": {"1.seed": "$seed"}}],
            }
        )
    )
    await proxy.start(max_concurrent_jobs=1)
    running = await proxy.jobs.submit(seconds=LONG_S)
    await proxy.jobs.reaches(running, "processing")
    job_id = await post(proxy, "random")
    before = (await proxy.jobs.status(job_id))["parameters"]
    await proxy.restart()
    assert (await proxy.jobs.status(job_id))["parameters"] == before
    assert isinstance(before["seed"], int)
    await proxy.jobs.delete(running)
    await proxy.jobs.ends(job_id)


# --- a file of the version before jobs had several files and results ------------------------


def of_the_version_before(record: dict[str, Any]) -> dict[str, Any]:
    """``record`` as that version wrote it: one picture in, one out."""
    (file,) = record.pop("files")
    made = record.pop("results")
    record.pop("variant")
    record["request"]["picture"] = file["info"]
    record |= {"digest": file["digest"], "etag": None, "result": None}
    if made is not None:
        (result,) = made
        names = ("media_type", "width", "height")
        record["result"] = {
            "extension": Path(result["name"]).suffix, **{name: result[name] for name in names},
        }  # fmt: skip
        record["etag"] = f'"{result["digest"][:32]}"'
    return record


def rewrite(proxy: Restarting, job_id: str) -> None:
    """The job's record becomes one of the version before."""
    where = "WHERE kind = 'job' AND key = ?", (job_id.encode(),)
    with closing(sqlite3.connect(proxy.settings["state_file"])) as file, file:
        ((data,),) = file.execute(f"SELECT value FROM entries {where[0]}", where[1])
        old = json.dumps(of_the_version_before(json.loads(data))).encode()
        file.execute(f"UPDATE entries SET value = ? {where[0]}", (old, *where[1]))


async def test_an_ended_job_of_the_version_before(proxy: Restarting) -> None:
    """Its picture is its only result, under the name that it had when it was fetched."""
    await proxy.start()
    job_id = await proxy.jobs.submit("upscale-image")
    before = await proxy.jobs.ends(job_id)
    picture = await proxy.jobs.result(job_id)
    await proxy.stop()
    rewrite(proxy, job_id)
    await proxy.start()
    after = await proxy.jobs.status(job_id)
    assert {**after, "variant": before["variant"]} == before
    assert await proxy.jobs.result(job_id) == picture
    assert after["results"][0]["etag"] == f'"{hashlib.sha256(picture).hexdigest()[:32]}"'


async def test_a_job_of_the_version_before_that_had_not_ended(proxy: Restarting) -> None:
    """It goes on with its picture."""
    await proxy.start(max_concurrent_jobs=1)
    running = await proxy.jobs.submit(seconds=LONG_S)
    await proxy.jobs.reaches(running, "processing")
    waiting = await proxy.jobs.submit(picture=PNG, seconds=0)
    await proxy.stop()
    rewrite(proxy, waiting)
    await proxy.start()
    await proxy.jobs.delete(running)
    assert (await proxy.jobs.ends(waiting))["status"] == "completed"
    made = open_picture(await proxy.jobs.result(waiting))
    assert made.tobytes() == open_picture(PNG).tobytes()
