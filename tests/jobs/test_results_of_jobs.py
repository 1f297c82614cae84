"""What jobs give back, through two instances: several results, other kinds than pictures, large
ones, and how each is asked for."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData
from job_client import JobClient, open_picture

from comfy_proxy.embedded.worker import EmbeddedWorker

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Awaitable[JobClient]]
LARGE = 9 * 2**20
MP4 = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


COLOURS = {
    "1": node("EmptyImage", width=16, height=8, batch_size=1, color=0),
    "9": node("SaveImage", images=["1", 0], filename_prefix="sub/colour"),
}
VIDEO = {
    "1": node("LoadVideo", file="x.mp4"),
    "9": node("SaveVideo", video=["1", 0], filename_prefix="copy"),
}


@pytest.fixture
async def told(start_jobs: Start, workers: Pair, templates: Path) -> Callable[..., Any]:
    """``await told(ui, files)`` → client and id of a job that has told that, and has ended."""
    graph = {"1": {**node("TellNode", ui="{}", files="{}", seed=0), "_meta": {"title": "$"}}}
    (templates / "tell.json").write_text(json.dumps(graph))
    (templates / "colours.json").write_text(json.dumps(COLOURS))
    (templates / "video.json").write_text(json.dumps(VIDEO))
    jobs = await start_jobs(*workers, max_results_size=10**8)

    async def tell(ui: Any, files: Any = None) -> tuple[JobClient, str]:
        sent = {"ui": json.dumps(ui), "files": json.dumps(files or {})}
        return jobs, await post(jobs, "tell", json=sent)

    return tell


async def post(jobs: JobClient, name: str, **sent: Any) -> str:
    async with jobs.http.post(f"/api/workflows/{name}", **sent) as answer:
        body = await answer.json()
        assert answer.status == 202, body
    await jobs.ends(body["job_id"])
    return str(body["job_id"])


def entry(name: str, folder: str = "") -> dict[str, str]:
    return {"filename": name, "subfolder": folder, "type": "output"}


async def batch_of_three(told: Callable[..., Any]) -> tuple[JobClient, str, list[dict[str, Any]]]:
    jobs, _ = await told({"text": ["x"]})
    job_id = await post(jobs, "colours", json={"batch_size": 3, "width": 32})
    status = await jobs.status(job_id)
    assert status["status"] == "completed", status
    return jobs, job_id, status["results"]


async def test_a_batch_of_three(told: Callable[..., Any]) -> None:
    """No file goes in, three pictures come out: a list, each under its own address."""
    jobs, job_id, results = await batch_of_three(told)
    assert [one["url"] for one in results] == [f"/api/jobs/{job_id}/result/{n}" for n in range(3)]
    assert [one["name"] for one in results] == [f"colour_0000{n}_.png" for n in (1, 2, 3)]
    assert {(one["type"], one["media_type"], one["width"], one["height"]) for one in results} == {
        ("image", "image/png", 32, 8)
    }
    for accept in ("*/*", "image/png", "application/json", ""):
        headers = {"Accept": accept}
        async with jobs.http.get(f"/api/jobs/{job_id}/result", headers=headers) as answer:
            assert (answer.status, await answer.json()) == (200, results)
            assert answer.headers["Vary"] == "Accept"
    for one in results:
        async with jobs.http.get(one["url"]) as answer:
            data = await answer.read()
        assert (answer.content_type, answer.headers["ETag"]) == ("image/png", one["etag"])
        assert (len(data), open_picture(data).size) == (one["size_bytes"], (32, 8))
        async with jobs.http.get(one["url"], headers={"If-None-Match": one["etag"]}) as answer:
            assert (answer.status, await answer.read()) == (304, b"")


@pytest.mark.long
@pytest.mark.parametrize("number", ["3", "-1", "00000000001", "x", "1.0", "٣", "0x1", "1e0"])
async def test_a_result_that_is_not_there(told: Callable[..., Any], number: str) -> None:
    """404, with how many there are; nothing but digits is a number."""
    jobs, job_id, _ = await batch_of_three(told)
    body = await jobs.get(f"/api/jobs/{job_id}/result/{number}", expect=404)
    assert body["code"] == "result_not_found"
    assert "has 3" in body["error"]


async def test_all_results_as_a_zip(told: Callable[..., Any]) -> None:
    """For who names it; the same bytes each time, 304 for who has them, no body for HEAD."""
    jobs, job_id, results = await batch_of_three(told)
    url, headers = f"/api/jobs/{job_id}/result", {"Accept": "application/zip"}
    async with jobs.http.get(url, headers=headers) as answer:
        data = await answer.read()
        etag = answer.headers["ETag"]
        assert (answer.status, answer.content_type) == (200, "application/zip")
        assert f'filename="colours-{job_id[:8]}.zip"' in answer.headers["Content-Disposition"]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == [one["name"] for one in results]
        sizes = [len(archive.read(name)) for name in archive.namelist()]
    assert sizes == [one["size_bytes"] for one in results]
    async with jobs.http.get(url, headers=headers) as answer:
        assert await answer.read() == data
    async with jobs.http.head(url, headers=headers) as answer:
        assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(data)))
    async with jobs.http.get(url, headers={**headers, "If-None-Match": etag}) as answer:
        assert answer.status == 304


@pytest.mark.long
@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/zip, application/json;q=0.5", "application/zip"),
        ("application/zip;q=0.5, application/json", "application/json"),
        ("application/*", "application/json"),
        ("application/zip;q=0", "application/json"),
    ],
)
async def test_a_zip_is_for_who_names_it(told: Callable[..., Any], accept: str, kind: str) -> None:
    """A wildcard does not name it, and JSON may be preferred."""
    jobs, job_id, _ = await batch_of_three(told)
    async with jobs.http.get(f"/api/jobs/{job_id}/result", headers={"Accept": accept}) as answer:
        assert (answer.status, answer.content_type) == (200, kind)


async def test_the_old_synchronous_answer_has_the_first_picture(told: Callable[..., Any]) -> None:
    """And the list of all; also for who prefers pictures, because there are several."""
    jobs, _ = await told({"text": ["x"]})
    for accept in ("*/*", "image/png"):
        async with jobs.http.post(
            "/api/workflows/colours?mode=sync", json={"batch_size": 2}, headers={"Accept": accept}
        ) as answer:
            body = await answer.json()
        assert answer.status == 200
        assert body["imageBase64"].startswith("data:image/png;base64,")
        assert [one["type"] for one in body["results"]] == ["image", "image"]
        assert body["parameters"]["batch_size"] == 2


async def test_a_text(told: Callable[..., Any]) -> None:
    """UTF-8, as it was told; as JSON for who prefers that; an empty one is a result too."""
    jobs, job_id = await told({"text": ["ein Käfer 🪲"]})
    (result,) = (await jobs.status(job_id))["results"]
    assert (result["type"], result["name"]) == ("text", f"tell-{job_id[:8]}.txt")
    async with jobs.http.get(result["url"]) as answer:
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert await answer.text() == "ein Käfer 🪲"
    headers = {"Accept": "application/json"}
    async with jobs.http.get(f"/api/jobs/{job_id}/result", headers=headers) as answer:
        assert (await answer.json())["result"]["text"] == "ein Käfer 🪲"
    jobs, job_id = await told({"text": [""]})
    async with jobs.http.get(f"/api/jobs/{job_id}/result") as answer:
        assert (answer.status, await answer.read()) == (200, b"")


async def test_data(told: Callable[..., Any]) -> None:
    """Whatever else a node tells is JSON, in which NaN is null: every client can read it."""
    jobs, job_id = await told({"boxes": [[1, 2.5], {"score": float("nan")}]})
    async with jobs.http.get(f"/api/jobs/{job_id}/result") as answer:
        assert answer.content_type == "application/json"
        assert await answer.json() == {"boxes": [[1, 2.5], {"score": None}]}


async def test_data_that_is_nested_without_end(told: Callable[..., Any]) -> None:
    """The job fails with a reason that names the node; it is no fault of ours."""
    deep: Any = []
    for _ in range(700):
        deep = [deep]
    jobs, job_id = await told({"deep": deep})
    status = await jobs.status(job_id)
    if status["status"] == "completed":  # it could be written after all
        assert status["results"][0]["type"] == "data"
    else:
        assert status["error"]["code"] != "internal_error"


async def test_several_kinds_at_once(told: Callable[..., Any]) -> None:
    """Files that were saved first, then what was shown; a file of two nodes once."""
    jobs, job_id = await told(
        {"gifs": [entry("a.mp4")], "text": ["hello"], "audio": [entry("b.flac", "deep")]},
        {"a.mp4": "video", "deep/b.flac": "sound"},
    )
    status = await jobs.status(job_id)
    shown = [(one["type"], one["name"], one["media_type"]) for one in status["results"]]
    assert shown == [
        ("video", "a.mp4", "video/mp4"),
        ("text", f"tell-{job_id[:8]}.txt", "text/plain; charset=utf-8"),
        ("audio", "b.flac", "audio/flac"),
    ]
    for one, data in zip(status["results"], (b"video", b"hello", b"sound"), strict=True):
        async with jobs.http.get(one["url"]) as answer:
            assert await answer.read() == data


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("plain.mp4", 'inline; filename="plain.mp4"'),
        ('qu"ote.mp4', "inline; filename=\"qu_ote.mp4\"; filename*=UTF-8''qu%22ote.mp4"),
        ("Käfer 🪲.mp4",
         "inline; filename=\"K_fer _.mp4\"; filename*=UTF-8''K%C3%A4fer%20%F0%9F%AA%B2.mp4"),
        ("page.html", 'attachment; filename="page.html"'),
        ("drawing.svg", 'attachment; filename="drawing.svg"'),
        ("program.js", 'attachment; filename="program.js"'),
        ("scene.glb", 'attachment; filename="scene.glb"'),
    ],
)  # fmt: skip
async def test_names_in_headers(told: Callable[..., Any], name: str, header: str) -> None:
    """No name breaks the header, and nothing with a script in it is shown as a page of ours."""
    jobs, job_id = await told({"files": [entry(name)]}, {name: "data"})
    async with jobs.http.get(f"/api/jobs/{job_id}/result") as answer:
        assert (answer.status, await answer.read()) == (200, b"data")
        assert answer.headers["Content-Disposition"] == header
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Set-Cookie" not in answer.headers


@pytest.mark.long
@pytest.mark.parametrize("name", ["../../secret.png", "/etc/passwd", "gone.png", ".."])
async def test_a_file_that_the_instance_does_not_give(told: Callable[..., Any], name: str) -> None:
    """The job fails with a reason after three tries; the proxy reads no file of its own."""
    jobs, job_id = await told({"images": [entry(name)]})
    status = await jobs.status(job_id)
    assert status["attempts"] <= 3
    assert (status["status"], status["results"]) == ("failed", None)
    assert status["error"]["code"] != "internal_error"


@pytest.mark.long
async def test_a_video_passes_through_untouched(told: Callable[..., Any]) -> None:
    """Larger than what stays in memory: streamed from the disk, the same bytes, with their length,
    and without a body for HEAD."""
    jobs, _ = await told({"text": ["x"]})
    data = MP4 + os.urandom(LARGE)
    form = FormData()
    form.add_field("video", io.BytesIO(data), filename="v.mp4", content_type="video/mp4")
    job_id = await post(jobs, "video", data=form)
    (result,) = (await jobs.status(job_id))["results"]
    assert (result["type"], result["size_bytes"]) == ("video", len(data))
    assert result["width"] is None
    async with jobs.http.get(result["url"]) as answer:
        assert answer.headers["Content-Length"] == str(len(data))
        assert answer.content_type == "video/mp4"
        digest = hashlib.sha256(await answer.read())
    assert digest.digest() == hashlib.sha256(data).digest()
    assert answer.headers["ETag"] == result["etag"]
    async with jobs.http.head(result["url"]) as answer:
        assert (answer.headers["Content-Length"], await answer.read()) == (str(len(data)), b"")
    async with jobs.http.post(
        "/api/workflows/video",
        data=io.BytesIO(data),
        headers={"Content-Type": "video/mp4", "Accept": "video/*"},
    ) as answer:
        assert (answer.status, answer.content_type) == (200, "video/mp4")
        assert await answer.read() == data


async def test_an_animation_is_not_converted(told: Callable[..., Any]) -> None:
    """Whatever format is asked for: its other frames would be lost."""
    jobs, _ = await told({"text": ["x"]})
    async with jobs.http.post(
        "/api/workflows/video", data=MP4 + b"1", headers={"Content-Type": "video/mp4"},
        params={"format": "jpeg"},
    ) as answer:  # fmt: skip
        body = await answer.json()
        assert body["format"] == "JPEG"
    await jobs.ends(body["job_id"])
    async with jobs.http.get(f"/api/jobs/{body['job_id']}/result") as answer:
        assert await answer.read() == MP4 + b"1"


async def test_a_batch_in_another_format(told: Callable[..., Any]) -> None:
    """Each still picture is converted, under its own name."""
    jobs, _ = await told({"text": ["x"]})
    job_id = await post(jobs, "colours", json={"batch_size": 2, "format": "webp"})
    results = (await jobs.status(job_id))["results"]
    assert [one["media_type"] for one in results] == ["image/webp"] * 2
    assert [one["name"][-6:] for one in results] == ["_.webp"] * 2


async def test_a_deleted_job_has_no_results(told: Callable[..., Any]) -> None:
    """Neither the list nor one of them."""
    jobs, job_id, _ = await batch_of_three(told)
    await jobs.delete(job_id)
    for path in ("result", "result/0", "result/2"):
        body = await jobs.get(f"/api/jobs/{job_id}/{path}", expect=404)
        assert body["code"] == "job_not_found"


async def test_a_result_that_somebody_has_removed_is_made_again(
    start_jobs: Start, workers: Pair, templates: Path
) -> None:
    """ComfyUI tells of it from its cache, without the file: the node that saves runs once more."""
    (templates / "colours.json").write_text(json.dumps(COLOURS))
    jobs = await start_jobs(workers[0])
    first = await jobs.status(await post(jobs, "colours"))
    for file in workers[0].folders.base.glob("output/sub/*.png"):
        file.unlink()
    again = await jobs.status(await post(jobs, "colours"))
    assert (again["status"], again["attempts"]) == ("completed", 2), again["error"]
    assert again["results"][0]["width"] == first["results"][0]["width"]
