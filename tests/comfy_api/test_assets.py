"""``/api/v2/assets``: uploads known by id and by hash, and their bytes wherever they are needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import FormData
from blake3 import blake3
from job_client import noise
from prompt_client import Http, graph
from v2_client import V2, code, told

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import COMFY_API

Workers = tuple[EmbeddedWorker, EmbeddedWorker]


def hash_of(data: bytes) -> str:
    return f"blake3:{blake3(data).hexdigest()}"


async def test_an_upload_is_shown_as_it_came(v2: V2) -> None:
    data = noise()
    asset = await v2.upload(data, file_path="photo.png", expected_hash=hash_of(data))
    assert (asset["hash"], asset["size_bytes"]) == (hash_of(data), len(data))
    assert (asset["file_path"], asset["content_type"]) == ("photo.png", "image/png")
    assert asset["created_new"] is True
    assert asset["url"].endswith(f"/api/v2/assets/{asset['id']}/content")
    assert await v2.content(asset["id"]) == (200, data)
    assert await v2.content(asset["id"], Range="bytes=2-5") == (206, data[2:6])
    again = await v2.get(f"assets/{asset['id']}")
    assert again == {key: value for key, value in asset.items() if key != "created_new"}


async def test_it_is_at_both_instances(v2: V2, workers: Workers) -> None:
    """Also when the one that was given it first is away."""
    data = noise()
    asset = await v2.upload(data)
    assert all(
        [file.read_bytes() for file in one.folders.base.glob("input/p-*.png")] == [data]
        for one in workers
    )
    await workers[0].kill()
    assert await v2.content(asset["id"]) == (200, data)
    workflow = graph()
    reference = {"__type": "core/ASSET", "info": {"id": asset["id"]}}
    workflow["1"] = {"class_type": "LoadImage", "inputs": {"image": reference}}
    job = await v2.ends((await v2.submit(workflow))["id"])
    assert job["status"] == "succeeded"


async def test_one_name_and_other_bytes_are_two_files(v2: V2) -> None:
    """A later upload changes nothing in an asset, neither of ours nor of ComfyUI's own route."""
    first, second = noise(), noise()
    assets = [await v2.upload(data, file_path="input/a/photo.png") for data in (first, second)]
    form = FormData()
    form.add_field("image", noise(), filename="photo.png")
    form.add_field("subfolder", "a")
    form.add_field("overwrite", "true")
    async with v2.http.post("/upload/image", data=form) as answer:
        assert answer.status == 200
    assert [await v2.content(one["id"]) for one in assets] == [(200, first), (200, second)]


async def test_known_bytes_are_not_uploaded_again(v2: V2, workers: Workers) -> None:
    data = noise()
    first = await v2.upload(data)
    again = await v2.upload(data, file_path="other.png", expect=200)
    assert (again["id"], again["created_new"]) == (first["id"], False)
    assert len([*workers[0].folders.base.glob("input/*.png")]) == 1


async def test_bytes_that_were_uploaded_are_found_by_their_hash(v2: V2, proxy: Http) -> None:
    data = noise()
    path = f"/api/v2/assets/by-hash/{hash_of(data)}"
    body = {"hash": hash_of(data)}
    async with proxy.head(path) as answer:
        assert answer.status == 404
    async with proxy.post("/api/v2/assets/from-hash", json=body) as answer:
        assert code(await told(answer, 404)) == "blob_not_found"
    asset = await v2.upload(data)
    async with proxy.head(path) as answer:
        assert answer.status == 200
    async with proxy.post("/api/v2/assets/from-hash", json=body) as answer:
        assert (await told(answer, 200))["id"] == asset["id"]


async def test_bytes_that_are_gone_are_uploaded_again(
    v2: V2, workers: Workers, proxy: Http
) -> None:
    """The instances' disks were emptied, and we have forgotten the bytes as well."""
    data = noise()
    asset = await v2.upload(data)
    api = proxy.app[COMFY_API]
    for worker in workers:
        for file in worker.folders.base.glob("input/*.png"):
            file.unlink()
    api.doors.files.uploads.forget(api.assets.find(asset["id"], "").file)
    async with proxy.head(f"/api/v2/assets/by-hash/{hash_of(data)}") as answer:
        assert answer.status == 404
    assert (await v2.upload(data))["id"] != asset["id"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("fields", "status", "expected"),
    [
        ({"expected_hash": "blake3:00"}, 409, "hash_mismatch"),
        ({"file_path": ""}, 422, "invalid_request"),
        ({"file_path": "x" * 1021 + ".png"}, 422, "invalid_request"),
        ({"file_path": "input/" + "a/" * 1000 + "x.png"}, 422, "invalid_request"),
        ({"file_path": "../x.png"}, 422, "invalid_request"),
        ({"file_path": "/etc/x.png"}, 422, "invalid_request"),
        ({"file_path": "input/../x.png"}, 422, "invalid_request"),
        ({"file_path": "models/checkpoints/x.safetensors"}, 422, "invalid_request"),
        ({"file_path": "checkpoints/x.safetensors"}, 422, "invalid_request"),
        ({"expires_in": "10"}, 422, "invalid_request"),
        ({"expires_in": "000000060" + "9" * 16}, 422, "invalid_request"),
        ({"expires_in": "000000060" + "9" * 5000}, 422, "invalid_request"),
    ],
)
async def test_what_is_wrong_is_named(
    v2: V2, workers: Workers, fields: dict[str, str], status: int, expected: str
) -> None:
    """And nothing is written anywhere."""
    told = await v2.upload(noise(), expect=status, **fields)
    assert code(told) == expected
    assert not any([*one.folders.base.glob("**/*-*.png")] for one in workers)


@pytest.mark.long
@pytest.mark.parametrize("name", ['a".png', "ü ñ.png", "a..b.png", "a;b\\c.png", "x" * 300, "%2e"])
async def test_odd_names_are_taken(v2: V2, name: str) -> None:
    """The client's name is told as it came; the file's is one that ComfyUI takes."""
    data = noise()
    asset = await v2.upload(data, file_path=name)
    assert asset["file_path"] == name
    assert await v2.content(asset["id"]) == (200, data)


async def test_too_large_an_upload_is_refused(
    workers: Workers, start_proxy: Callable[..., Any]
) -> None:
    v2 = V2(await start_proxy(*workers, max_upload_size=1000))
    assert code(await v2.upload(b"x" * 2000, expect=413)) == "payload_too_large"


async def test_what_is_no_form_is_refused(proxy: Http) -> None:
    async with proxy.post("/api/v2/assets", data=b"x") as answer:
        assert code(await told(answer, 422)) == "invalid_request"
    form = FormData()
    form.add_field("file_path", "x.png")
    form.add_field("more", b"", filename="y")
    async with proxy.post("/api/v2/assets", data=form) as answer:
        assert (await told(answer, 422))["error"]["details"] == {"field": "file"}


async def test_an_output_cannot_be_deleted(v2: V2, proxy: Http) -> None:
    """Its job names it. An upload can; its id leads nowhere then."""
    job = await v2.ends((await v2.submit())["id"])
    async with proxy.delete(f"/api/v2/assets/{job['outputs'][0]['id']}") as answer:
        assert code(await told(answer, 409)) == "asset_in_use"
    asset = await v2.upload(noise())
    async with proxy.delete(f"/api/v2/assets/{asset['id']}") as answer:
        assert answer.status == 204
    assert code(await v2.get(f"assets/{asset['id']}", expect=404)) == "not_found"


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        "猫" * 100 + ".png",
        "x" * 1000 + ".png",
        "x." + "猫" * 300,
        "input/" + "x" * 300 + "/a.png",
        "input/" + "/".join(["猫" * 80] * 4) + "/a.png",
        "input/" + "a/" * 500 + "x.png",
    ],
)
async def test_a_long_path_is_stored_under_a_shorter_one(
    v2: V2, workers: Workers, name: str
) -> None:
    """No part of it is longer than a disk takes; the client is told its own."""
    asset = await v2.upload(b"bytes", file_path=name)
    assert asset["file_path"] == name.removeprefix("input/")
    assert await v2.content(asset["id"]) == (200, b"bytes")
    stored = [list(worker.folders.base.joinpath("input").rglob("*-*")) for worker in workers]
    assert [len(files) for files in stored] == [1, 1]
    assert stored[0][0].read_bytes() == b"bytes"
