"""Results as answers, on a manual clock: headers that no name breaks, and who gets JSON instead."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from typing import Any

import pytest
from made import result

from comfy_proxy.jobs.model import Job, JobStatus
from comfy_proxy.jobs.results.result_file import ResultFile
from comfy_proxy.jobs.service import JobService
from comfy_proxy.stored_bytes import StoredBytes

VIDEO = result(b"video", type="video", name="a.mp4", media_type="video/mp4", width=None)
SOUND = result(b"sound", type="audio", name="a.flac", media_type="audio/flac", width=None)
MODEL = result(b"model", type="model3d", name="a.glb", media_type="model/gltf-binary", width=None)
PICTURE = result(b"picture")
TEXT = result(b"text\xff", type="text", name="a.txt", media_type="text/plain; charset=utf-8")
DATA = result(b"{}", type="data", name="a.json", media_type="application/json")
BINARY = result(b"\0", type="file", name="a", media_type="application/octet-stream")


def complete(service: JobService, job: Job, *made: ResultFile) -> str:
    """The job has ended with these; the address of its result."""
    service.manager.update_job_status(job.id, JobStatus.PROCESSING, instance="gpu:1")
    service.manager.update_job_status(job.id, JobStatus.COMPLETED, results=made)
    return f"/api/jobs/{job.id}/result"


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a\r\nSet-Cookie: x=y.png",
         "inline; filename=\"a__Set-Cookie: x=y.png\";"
         " filename*=UTF-8''a%0D%0ASet-Cookie%3A%20x%3Dy.png"),
        ("a\0\x7f.png", "inline; filename=\"a__.png\"; filename*=UTF-8''a%00%7F.png"),
        ("a;b'c%.png", "inline; filename=\"a;b'c%.png\""),
        ("a\\b.png", "inline; filename=\"a_b.png\"; filename*=UTF-8''a%5Cb.png"),
        ("日本.png", "inline; filename=\"__.png\"; filename*=UTF-8''%E6%97%A5%E6%9C%AC.png"),
    ],
)  # fmt: skip
async def test_no_name_breaks_a_header(
    service: JobService, job: Job, api_alone: Any, name: str, header: str
) -> None:
    """One line, both forms of the name (RFC 6266)."""
    async with api_alone.get(complete(service, job, result(name=name))) as answer:
        assert (answer.status, answer.headers["Content-Disposition"]) == (200, header)
        assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(
    ("made", "accept", "kind"),
    [
        (VIDEO, "", "video/mp4"),
        (VIDEO, "video/*, application/json", "video/mp4"),
        (VIDEO, "image/*, application/json", "application/json"),
        (VIDEO, "application/json", "application/json"),
        (SOUND, "audio/flac, application/json;q=0.9", "audio/flac"),
        (SOUND, "application/json, */*;q=0.1", "application/json"),
        (MODEL, "model/*, application/json;q=0.5", "model/gltf-binary"),
        (PICTURE, "image/png, application/json;q=0.5", "image/png"),
        (TEXT, "text/plain, application/json;q=0.5", "text/plain"),
        (TEXT, "application/json", "application/json"),
        (BINARY, "*/*", "application/octet-stream"),
    ],
)
async def test_accept_by_kind(
    service: JobService, job: Job, api_alone: Any, made: ResultFile, accept: str, kind: str
) -> None:
    """The bytes, unless JSON is preferred to what the result is."""
    url = complete(service, job, made)
    async with api_alone.get(url, headers={"Accept": accept}) as answer:
        assert (answer.status, answer.content_type) == (200, kind)
        assert answer.headers["Vary"] == "Accept"


@pytest.mark.parametrize(
    ("made", "content"),
    [
        (PICTURE, {"image_base64": "data:image/png;base64,cGljdHVyZQ=="}),
        (VIDEO, {"data_base64": "data:video/mp4;base64,dmlkZW8="}),
        (TEXT, {"text": "text\ufffd"}),
        (BINARY, {"data_base64": "data:application/octet-stream;base64,AA=="}),
    ],
)
async def test_a_result_in_json(
    service: JobService, job: Job, api_alone: Any, made: ResultFile, content: dict[str, str]
) -> None:
    """A text as it is, a picture where it always was, anything else as a data URL."""
    url = complete(service, job, made)
    async with api_alone.get(url, headers={"Accept": "application/json"}) as answer:
        body = await answer.json()
    assert body["result"] == {**content, "prompt_id": None}
    assert [one["type"] for one in body["results"]] == [made.type]


async def test_a_long_text_in_json_is_never_in_memory(
    service: JobService, job: Job, api_alone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node may tell 50 MB, or save them: all of it is told, as it is read."""
    text = "K\u00e4fer\n\U0001fab2" * 300_000
    made = result(text.encode(), type="text", name="a.txt", media_type="text/plain; charset=utf-8")
    url = complete(service, job, made)

    async def whole(self: StoredBytes) -> bytes:
        raise AssertionError("read as a whole")

    monkeypatch.setattr(StoredBytes, "read", whole)
    async with api_alone.get(url, headers={"Accept": "application/json"}) as answer:
        assert (answer.status, answer.headers["Vary"]) == (200, "Accept")
        told = await answer.json()
    assert told["result"] == {"text": text, "prompt_id": None}
    assert told["results"][0]["size_bytes"] == len(text.encode())


async def test_data_is_json_either_way(service: JobService, job: Job, api_alone: Any) -> None:
    """``/result/0`` is what the node told, whatever is accepted."""
    url = complete(service, job, DATA)
    async with api_alone.get(f"{url}/0", headers={"Accept": "application/json"}) as answer:
        assert (await answer.json(), answer.headers["ETag"]) == ({}, DATA.etag)


async def test_one_result_as_a_zip(service: JobService, job: Job, api_alone: Any) -> None:
    """A client that asks for a ZIP gets one, however many results there are."""
    url = complete(service, job, VIDEO)
    async with api_alone.get(url, headers={"Accept": "application/zip"}) as answer:
        assert (answer.content_type, (await answer.read())[:2]) == ("application/zip", b"PK")
        assert "attachment" in answer.headers["Content-Disposition"]


async def test_a_list_of_results_is_no_longer_there_when_they_are_dropped(
    service: JobService, job: Job, api_alone: Any, make_request: Any
) -> None:
    """All of a job's results go at once: 410 for the list and for each; the status says null."""
    url = complete(service, job, VIDEO, SOUND)
    other = service.manager.create_job(await make_request())
    complete(service, other, result(bytes(2000)))
    for path in (url, f"{url}/0", f"{url}/1"):
        async with api_alone.get(path) as answer:
            assert (answer.status, (await answer.json())["code"]) == (410, "result_dropped")
    async with api_alone.get(f"/api/jobs/{job.id}/status") as answer:
        body = await answer.json()
    assert (body["status"], body["results"]) == ("completed", None)


def stored_on_disk(content: bytes) -> StoredBytes:
    made = StoredBytes(memory_bytes=0)
    descriptor, made._path = tempfile.mkstemp()
    os.write(descriptor, content)
    os.close(descriptor)
    made.size = len(content)
    return made


@pytest.mark.parametrize("place", ["memory", "disk", "state file"])
@pytest.mark.parametrize("path", ["", "/0"])
async def test_a_part_of_a_result(
    service: JobService, job: Job, api_alone: Any, path: str, place: str
) -> None:
    """A player seeks in a video, and a broken download goes on, wherever the bytes are."""
    content = bytes(range(200))
    made = result(content, type="video", name="a.mp4", media_type="video/mp4")
    if place != "memory":
        around = b"before" if place == "state file" else b""
        body = stored_on_disk(around + content + around)
        if around:
            body.cut(len(around), len(content), "digest")
        made = replace(made, body=body)
    url = complete(service, job, made) + path
    async with api_alone.get(url) as answer:
        assert (answer.status, answer.headers["Accept-Ranges"]) == (200, "bytes")
        etag = answer.headers["ETag"]
    headers = {"Range": "bytes=10-19", "If-Range": etag}
    async with api_alone.get(url, headers=headers) as answer:
        assert (answer.status, await answer.read()) == (206, content[10:20])
        assert answer.headers["Content-Range"] == "bytes 10-19/200"
        assert (answer.headers["Content-Length"], answer.content_type) == ("10", "video/mp4")
        assert answer.headers["ETag"] == etag
    async with api_alone.get(url, headers={"Range": "bytes=-5"}) as answer:
        assert (answer.status, await answer.read()) == (206, content[-5:])
    async with api_alone.get(url, headers={**headers, "If-Range": '"x"'}) as answer:
        assert (answer.status, await answer.read()) == (200, content)
    async with api_alone.get(url, headers={**headers, "If-None-Match": etag}) as answer:
        assert answer.status == 304
    async with api_alone.head(url, headers=headers) as answer:
        assert (answer.status, answer.headers["Content-Length"]) == (200, "200")
        assert answer.headers["Accept-Ranges"] == "bytes"
    async with api_alone.get(url, headers={"Range": "bytes=200-"}) as answer:
        assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */200")
        assert (await answer.json())["code"] == "range_not_satisfiable"


async def test_json_has_no_parts(service: JobService, job: Job, api_alone: Any) -> None:
    """It is made for each answer: a range of it would be one of something else."""
    url = complete(service, job, PICTURE)
    headers = {"Range": "bytes=0-1", "Accept": "application/json"}
    async with api_alone.get(url, headers=headers) as answer:
        assert (answer.status, "Accept-Ranges" in answer.headers) == (200, False)
        assert (await answer.json())["result"]
