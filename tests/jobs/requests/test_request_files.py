"""Requests with no file, several files and files of each kind: what is taken, what is refused."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData
from job_client import encode, noise
from PIL import Image
from yarl import URL

from comfy_proxy.jobs.model import Job
from comfy_proxy.jobs.service import JobService
from comfy_proxy.jobs.workflows.directory import load_workflows
from comfy_proxy.jobs.workflows.parameter import MAX_SEED, MAX_TEXT_LENGTH

PNG, OTHER = noise(), noise()
MASK = encode(Image.new("L", (16, 12), 255))
MP4 = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(100)
WAV = b"RIFF\x24\0\0\0WAVEfmt " + bytes(28)
BASE64 = base64.b64encode(PNG).decode()
FILES = {
    "background": {"type": "file", "kind": "image"},
    "overlay": {"type": "file", "kind": "image"},
    "mask": {"type": "file", "kind": "mask", "required": False},
    "strength": {"type": "number", "default": 0.5},
}
TEXT = {
    "prompt": {"type": "string", "required": True},
    "seed": {"type": "integer", "random": True, "minimum": 0, "maximum": MAX_SEED},
}
COUNT = {"count": {"type": "integer", "required": True}}
CLIP = {
    "video": {"type": "file", "kind": "video"},
    "audio": {"type": "file", "kind": "audio", "required": False},
    "extra": {"type": "file", "kind": "file", "required": False},
}

JSON = {"Content-Type": "application/json"}


def described(parameters: dict[str, Any]) -> dict[str, Any]:
    graph = {"1": {"class_type": "Odd", "inputs": dict.fromkeys(parameters, 0)}}
    bind = {f"1.{name}": f"${name}" for name in parameters}
    return {"parameters": parameters, "variants": [{"graph": graph, "bind": bind}]}


@pytest.fixture
async def post(service: JobService, api_alone: Any, tmp_path: Path) -> Callable[..., Any]:
    """``await post(workflow, **sent)`` → status and body; of four workflows."""
    for name, parameters in (("blend", FILES), ("text", TEXT), ("clip", CLIP), ("count", COUNT)):
        (tmp_path / f"{name}.json").write_text(json.dumps(described(parameters)))
    registry = load_workflows(tmp_path)
    assert registry.problems == ()
    service.workflows.replace({one.name: one for one in registry}, ())

    async def send(workflow: str | URL, **sent: Any) -> tuple[int, dict[str, Any]]:
        where = URL("/api/workflows/").join(URL(workflow))
        async with api_alone.post(where, **sent) as answer:
            return answer.status, await answer.json()

    return send


def form(**fields: bytes | str | tuple[str, bytes]) -> FormData:
    """Bytes become files, a text a field; a pair is a file with its name."""
    data = FormData()
    for name, value in fields.items():
        if isinstance(value, str):
            data.add_field(name, value)
        else:
            file_name, content = value if isinstance(value, tuple) else ("x.png", value)
            data.add_field(name, io.BytesIO(content), filename=file_name)
    return data


def only(service: JobService) -> Job:
    (job,) = service.manager
    return job


async def contents(job: Job) -> dict[str, bytes]:
    return {name: await file.read() for name, file in job.request.files.items()}


# --- several files ------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [True, False])
async def test_files_by_their_own_names(post: Any, service: JobService, mask: bool) -> None:
    """In the order of the workflow, whatever that of the form; one may be left out."""
    more = {"mask": MASK} if mask else {}
    status, body = await post("blend", data=form(**more, overlay=OTHER, background=PNG))
    assert (status, body["strength"]) == (202, 0.5)
    given = await contents(only(service))
    assert list(given.items()) == [("background", PNG), ("overlay", OTHER), *more.items()]


async def test_files_in_json(post: Any, service: JobService) -> None:
    """Each as base64 or as a data URL; null is the same as nothing."""
    url = "data:image/png;base64," + base64.b64encode(OTHER).decode()
    sent = {"background": BASE64, "overlay": url, "mask": None, "strength": 1}
    assert (await post("blend", json=sent))[0] == 202
    assert await contents(only(service)) == {"background": PNG, "overlay": OTHER}


@pytest.mark.long
@pytest.mark.parametrize(
    ("sent", "code", "field"),
    [
        ({"data": form(background=PNG)}, "missing_file", "overlay"),
        ({"data": form(image=PNG, overlay=PNG)}, "unknown_parameter", "image"),
        ({"data": form(background=PNG, overlay=PNG, other=PNG)}, "unknown_parameter", "other"),
        ({"data": form(overlay=PNG, strength=PNG)}, "unknown_parameter", "strength"),
        ({"data": PNG, "headers": {"Content-Type": "image/png"}}, "several_files", "body"),
        ({"data": form(background=PNG, overlay=b"none")}, "invalid_image", "overlay"),
        ({"data": form(background=PNG, overlay=OTHER, mask=b"none")}, "invalid_image", "mask"),
        ({"data": form(background=PNG, overlay=MP4)}, "invalid_image", "overlay"),
        ({"json": {"background": BASE64, "overlay": 5}}, "invalid_image", "overlay"),
        ({"json": {"background": BASE64, "overlay": [BASE64]}}, "invalid_image", "overlay"),
        ({"json": {"background": BASE64, "overlay": "?"}}, "invalid_base64", "overlay"),
        ({"json": {}}, "missing_file", "background"),
        ({}, "missing_file", "background"),
        ({"params": {"background": "x"}}, "invalid_base64", "background"),
    ],
)  # fmt: skip
async def test_each_refusal_names_its_field(
    post: Any, service: JobService, sent: dict[str, Any], code: str, field: str
) -> None:
    """No job is made, and no file is kept."""
    status, body = await post("blend", **sent)
    assert (status, body["code"], body["details"]["field"]) == (400, code, field)
    assert list(service.manager) == []


async def test_a_file_that_comes_twice(post: Any) -> None:
    """Which one was meant nobody knows."""
    data = form(background=PNG, overlay=OTHER)
    data.add_field("overlay", io.BytesIO(PNG), filename="again.png")
    status, body = await post("blend", data=data)
    assert (status, body["code"]) == (400, "several_images")


async def test_files_are_bounded_in_sum(
    post: Any, service: JobService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MAX_UPLOAD_SIZE is for all files of a request: each alone would fit."""
    size = len(PNG) + len(OTHER) + len(MASK)
    for limit, expected in ((size, 202), (size - 1, 413)):
        changed = replace(service.settings, max_upload_size=limit)
        monkeypatch.setattr(service, "settings", changed)
        data = form(background=PNG, overlay=OTHER, mask=MASK)
        assert (await post("blend", data=data))[0] == expected


async def test_the_same_files_in_other_places_are_another_request(
    post: Any, service: JobService
) -> None:
    """A key is held to which file was what."""
    headers = {"Idempotency-Key": "k"}
    first = await post("blend", data=form(background=PNG, overlay=OTHER), headers=headers)
    again = await post("blend", data=form(overlay=OTHER, background=PNG), headers=headers)
    assert (first[0], again[0], again[1]["job_id"]) == (202, 202, first[1]["job_id"])
    swapped = await post("blend", data=form(background=OTHER, overlay=PNG), headers=headers)
    assert (swapped[0], swapped[1]["code"]) == (422, "idempotency_key_reused")


# --- no file ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        {"json": {"prompt": "a cat", "seed": 5}},
        {"data": {"prompt": "a cat", "seed": "5"}},
        {"data": form(prompt="a cat", seed="5")},
        {"params": {"prompt": "a cat", "seed": "5"}},
        {"params": {"seed": "5"}, "json": {"prompt": "a cat"}},
        {"params": {"seed": "5"}, "json": {"prompt": "a cat", "seed": 5}},
        {"data": b'\xef\xbb\xbf{"prompt": "a cat", "seed": 5}', "headers": JSON},
    ],
)
async def test_a_workflow_without_a_file(
    post: Any, service: JobService, sent: dict[str, Any]
) -> None:
    """JSON, both kinds of form, or no body at all say the same."""
    status, body = await post("text", **sent)
    assert (status, body["prompt"], body["seed"]) == (202, "a cat", 5)
    assert only(service).request.files == {}


@pytest.mark.long
@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ({}, 400, "missing_parameter"),
        ({"data": form(prompt="x", image=PNG)}, 400, "unknown_parameter"),
        ({"data": PNG, "headers": {"Content-Type": "image/png"}}, 415, "unsupported_media_type"),
        ({"data": {"prompt": "x", "colour": "y"}}, 400, "unknown_parameter"),
        ({"data": b"prompt=x&prompt=y"}, 400, "duplicate_parameter"),
        ({"data": b"prompt=%ff"}, 400, "broken_body"),
        ({"data": b"prompt=\xff"}, 400, "broken_body"),
        ({"data": b"a&" * 50_000}, 400, "broken_body"),
        ({"data": b"prompt=" + b"x" * (1 << 21)}, 413, "payload_too_large"),
        ({"json": {"prompt": ["x"]}}, 400, "invalid_parameter"),
        ({"params": {"seed": "7"}, "json": {"prompt": "x", "seed": 5}}, 400, "duplicate_parameter"),
        (
            {"params": {"mode": "sync"}, "json": {"prompt": "x", "mode": "async"}},
            400,
            "duplicate_parameter",
        ),
        (
            {"params": {"mode": "sync"}, "data": {"prompt": "x", "mode": "async"}},
            400,
            "duplicate_parameter",
        ),
        ({"params": {"seed": "x"}, "json": {"prompt": "x", "seed": 5}}, 400, "invalid_parameter"),
        ({"data": b'{"prompt": "\xff"}', "headers": JSON}, 400, "invalid_json"),
        ({"data": b'{"prompt": "\xff%s"}' % (b"x" * 65_500), "headers": JSON}, 400, "invalid_json"),
        ({"data": '{"prompt": "x"}'.encode("utf-16"), "headers": JSON}, 400, "invalid_json"),
        ({"json": {"prompt": 5}}, 400, "invalid_parameter"),
        ({"json": {"prompt": "x", "seed": -1}}, 400, "invalid_parameter"),
        ({"json": {"prompt": "x", "seed": 2**64}}, 400, "invalid_parameter"),
        ({"data": {"prompt": "x", "seed": str(2**64)}}, 400, "invalid_parameter"),
        ({"json": {"prompt": "x", "seed": True}}, 400, "invalid_parameter"),
        ({"json": {"prompt": "x", "seed": 1.5}}, 400, "invalid_parameter"),
    ],
)
async def test_what_it_refuses(
    post: Any, service: JobService, sent: dict[str, Any], status: int, code: str
) -> None:
    """A code for each; no job is made."""
    if isinstance(sent.get("data"), bytes) and "headers" not in sent:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        sent = {"data": io.BytesIO(sent["data"]), "headers": kind}
    found = await post("text", **sent)
    assert (found[0], found[1]["code"]) == (status, code)
    assert list(service.manager) == []


@pytest.mark.long
@pytest.mark.parametrize("way", ["json", "form", "fields"])
@pytest.mark.parametrize("character", ["x", "é", "\U0001fab2"])
async def test_long_prompts(post: Any, service: JobService, way: str, character: str) -> None:
    """65,536 characters arrive whole; one more is refused, and says which field."""
    for length, expected in ((MAX_TEXT_LENGTH, 202), (MAX_TEXT_LENGTH + 1, 400)):
        fields = {"prompt": character * length}
        sent = {"json": fields} if way == "json" else {"data": fields}
        if way == "form":
            sent = {"data": form(**fields)}
        status, body = await post("text", **sent)
        assert status == expected
        if status == 400:
            assert body["details"]["field"] == "prompt"
    assert len(str(only(service).data["prompt"])) == MAX_TEXT_LENGTH


@pytest.mark.parametrize("seed", [0, MAX_SEED, MAX_SEED - 1, 2**53 + 1])
@pytest.mark.parametrize("way", ["json", "fields"])
async def test_a_seed_is_exact(post: Any, api_alone: Any, seed: int, way: str) -> None:
    """Up to 2**64 - 1, in the 202 and in the status, although no float holds it."""
    fields: dict[str, Any] = {"prompt": "x", "seed": seed if way == "json" else str(seed)}
    _, body = await post("text", **({"json": fields} if way == "json" else {"data": fields}))
    assert body["seed"] == seed
    async with api_alone.get(body["status_url"]) as answer:
        assert (await answer.json())["parameters"]["seed"] == seed


@pytest.mark.parametrize("way", ["json", "long json", "form", "fields", "query"])
async def test_an_integer_is_exact_whatever_its_size(post: Any, api_alone: Any, way: str) -> None:
    """More than 64 bits too: nothing is rounded on its way in and out."""
    count = 12345678901234567890123
    sent: dict[str, Any] = {
        "json": {"json": {"count": count}},
        "long json": {"data": b'{"count":%d%s}' % (count, b" " * 70_000), "headers": JSON},
        "form": {"data": form(count=str(count))},
        "fields": {"data": {"count": str(count)}},
        "query": {"params": {"count": str(count)}},
    }[way]
    status, body = await post("count", **sent)
    assert (status, body.get("count")) == (202, count), body
    async with api_alone.get(body["status_url"]) as answer:
        assert (await answer.json())["parameters"]["count"] == count


@pytest.mark.parametrize(
    "text",
    ["9" * 41, '"' + "9" * 41 + '"', "9" * 5000, "1e41", '"1e999999999"',
     "9007199254740993.0",
             "1e19", "1e999", '"1e-999999999"'],
)  # fmt: skip
async def test_what_would_be_rounded_is_refused(post: Any, text: str) -> None:
    """In JSON a fraction or an exponent makes a float, which may be another number by then."""
    status, body = await post("count", data=f'{{"count":{text}}}', headers=JSON)
    assert (status, body["code"]) in ((400, "invalid_parameter"), (400, "invalid_json"))


@pytest.mark.parametrize(
    "query", ["prompt=%ff", "prompt=a%ffb&seed=1", "prompt=%ed%a0%80", "%ff=1"]
)
async def test_a_query_that_is_no_utf_8(post: Any, query: str) -> None:
    """It is refused as in a form: U+FFFD in its place is another text."""
    url = URL(f"text?{query}", encoded=True)
    status, body = await post(url)
    field = "query" if query.startswith("%") else "prompt"
    assert (status, body["details"]["field"]) == (400, field)
    assert "is not UTF-8" in body["error"]


async def test_the_same_in_query_and_body(post: Any, service: JobService) -> None:
    """However it is written: a value that is given twice is one."""
    query = {"seed": "5.0", "mode": "ASYNC", "prompt": "x"}
    status, _ = await post("text", params=query, data={"seed": "5", "mode": "async", "prompt": "x"})
    assert status == 202
    assert only(service).data == {"seed": 5, "prompt": "x"}


async def test_a_drawn_seed_is_told(post: Any, api_alone: Any, service: JobService) -> None:
    """In the 202 and in the status; it is no part of what an Idempotency-Key is held to."""
    headers = {"Idempotency-Key": "k"}
    _, first = await post("text", json={"prompt": "x"}, headers=headers)
    _, again = await post("text", json={"prompt": "x"}, headers=headers)
    assert (again["job_id"], again["seed"]) == (first["job_id"], first["seed"])
    async with api_alone.get(first["status_url"]) as answer:
        assert (await answer.json())["parameters"]["seed"] == first["seed"]
    status, _ = await post("text", json={"prompt": "x", "seed": first["seed"]}, headers=headers)
    assert status == 422
    seeds = {(await post("text", json={"prompt": "x"}))[1]["seed"] for _ in range(5)}
    assert len(seeds) == 5
    assert all(isinstance(seed, int) and 0 <= seed < 2**53 for seed in seeds)


# --- other kinds than pictures ------------------------------------------------------------


async def test_files_of_each_kind(post: Any, service: JobService) -> None:
    """A video and a sound are told by content, anything else by its name."""
    data = form(video=("v.bin", MP4), audio=("a", WAV), extra=("grade.CUBE", b"LUT"))
    assert (await post("clip", data=data))[0] == 202
    infos = only(service).request.infos
    assert [infos[one].extension for one in ("video", "audio", "extra")] == [
        ".mp4",
        ".wav",
        ".cube",
    ]
    assert infos["video"].media_type == "video/mp4"


@pytest.mark.parametrize("kind", ["video/mp4", "image/png"])
async def test_a_required_file_among_several_is_no_body(post: Any, kind: str) -> None:
    """Although the others may be left out: which one is meant is told by its field."""
    status, body = await post("clip", data=MP4, headers={"Content-Type": kind})
    assert (status, body["code"]) == (400, "several_files")


@pytest.mark.parametrize(
    ("data", "code", "field"),
    [
        (form(video=PNG), "invalid_file", "video"),
        (form(video=b"text"), "invalid_file", "video"),
        (form(video=b""), "empty_file", "video"),
        (form(video=MP4, audio=PNG), "invalid_file", "audio"),
        (form(video=MP4, extra=b""), "empty_file", "extra"),
    ],
)
async def test_a_file_of_another_kind(post: Any, data: FormData, code: str, field: str) -> None:
    """Before the job is made."""
    status, body = await post("clip", data=data)
    assert (status, body["code"], body["details"]["field"]) == (400, code, field)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "extension"),
    [
        ("../../a.sh", ".sh"), ("a.../", ".bin"), ("a.p\u00f6g", ".bin"), ("a.b c", ".bin"),
        ("a." + "x" * 11, ".bin"), ("", ".bin"), (".htaccess", ".bin"), ("a.b/c", ".bin"),
    ],
)  # fmt: skip
async def test_no_more_than_an_extension_of_a_clients_name_is_used(
    post: Any, service: JobService, name: str, extension: str
) -> None:
    """Letters and digits: the name under which it is uploaded leads nowhere."""
    data = FormData()
    data.add_field("video", io.BytesIO(MP4), filename="v.mp4")
    data.add_field("extra", io.BytesIO(b"data"), filename=name or "x")
    assert (await post("clip", data=data))[0] == 202
    assert only(service).request.infos["extra"].extension == extension
