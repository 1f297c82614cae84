"""Files and what happens to them in between: overwrites, restarts, tidied disks, slow copies."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from files_front import Front, picture, running_front
from manual_clock import ManualClock
from PIL import Image
from prompts_front import until

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.gateway.files import file_holders
from comfy_proxy.gateway.files.file_name import FileName
from comfy_proxy.gateway.files.records import UploadRecords
from comfy_proxy.stored_bytes import StoredBytes

RED, BLUE, GREEN = picture("red"), picture("blue"), picture("green")
X = FileName(filename="x.png", type="input")


@pytest.fixture
async def front(workers: tuple[EmbeddedWorker, EmbeddedWorker]) -> AsyncIterator[Front]:
    async with running_front(*workers) as front:
        yield front


async def stored(content: bytes) -> StoredBytes:
    result = StoredBytes()
    await result.write(content)
    return await result.finish()


async def stage(front: Front, number: int, file: FileName, **options: Any) -> bool:
    return await front.gateway.staging.stage(file, front.instances[number - 1], **options)


# --- newer bytes ----------------------------------------------------------------------------


async def test_newer_bytes_while_a_copy_is_under_way(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy that was begun is given up, the newest is brought, before anybody goes on."""
    await front.take_away(2)
    await front.upload(RED)
    await front.bring_back(2)
    front.write(2, "input/x.png", GREEN)
    look, looked = file_holders.look, False

    async def and_overwrite(*arguments: Any) -> Any:
        nonlocal looked
        if not looked:
            looked = True
            front.write(1, "input/x.png", BLUE)
            first = front.instances[0]
            life = front.gateway.files.holdings.life(first)
            front.gateway.files.received(X, await stored(BLUE), first, life=life)
        return await look(*arguments)

    monkeypatch.setattr(file_holders, "look", and_overwrite)
    await stage(front, 2, X)
    assert front.files("input/x.png") == [BLUE, BLUE]


async def test_bytes_that_are_crowded_out_while_they_are_needed(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read from the instance that has them."""
    await front.take_away(2)
    await front.upload(RED)
    await front.bring_back(2)
    look = file_holders.look

    async def and_crowd_out(*arguments: Any) -> Any:
        front.gateway.files.uploads.close()
        return await look(*arguments)

    monkeypatch.setattr(file_holders, "look", and_crowd_out)
    await stage(front, 2, X)
    assert front.files("input/x.png") == [RED, RED]


async def test_a_tidied_temporary_directory(front: Front) -> None:
    """A file of ours that somebody removed is read from an instance instead."""
    content = bytes(range(256)) * 1000
    await front.take_away(2)
    await front.upload(content)
    await front.bring_back(2)
    upload = front.gateway.files.uploads.get(X)
    assert upload is not None
    assert upload.content is not None
    assert upload.content._remove is not None
    upload.content._remove()
    await stage(front, 2, X)
    assert front.files("input/x.png") == [content, content]


async def test_a_result_of_the_same_name_as_an_upload(front: Front) -> None:
    """A node that writes over an uploaded output has made the newest: the bare name is its own."""
    await front.upload(RED, type="output")
    front.write(2, "output/x.png", BLUE)
    front.gateway.files.made(FileName(filename="x.png"), front.instances[1])
    assert await front.view() == (200, BLUE)
    assert not await stage(front, 1, FileName(filename="x.png"))


async def test_an_upload_over_an_older_upload_of_an_output(front: Front) -> None:
    """What is there is known to be an upload, also after it was away: it is written over."""
    for content in (RED, BLUE):
        await front.upload(content, type="output", overwrite="true")
    assert front.files("output/x.png") == [BLUE, BLUE]
    await front.take_away(2)
    await front.upload(GREEN, type="output", overwrite="true")
    await front.bring_back(2)
    assert front.files("output/x.png") == [GREEN, BLUE]
    assert await stage(front, 2, FileName(filename="x.png"))
    assert front.files("output/x.png") == [GREEN, GREEN]


async def test_the_earlier_digests_are_bounded() -> None:
    """The record of a name that is overwritten all day does not grow."""
    uploads = UploadRecords()
    digests = []
    for number in range(20):
        content = await stored(bytes([number]))
        digests.append(content.digest)
        uploads.keep(X, content)
    upload = uploads.get(X)
    assert upload is not None
    assert upload.earlier == tuple(digests[-9:-1])
    uploads.forget(X)
    assert uploads.get(X) is None


# --- slow and lost --------------------------------------------------------------------------


async def test_a_slow_instance_keeps_no_upload_waiting(front: Front) -> None:
    """After two seconds the client is answered; the copy arrives when the instance is back."""
    front.workers[1].faults.hang = ("/view", "/upload")
    clock = front.gateway.cluster.clock
    assert isinstance(clock, ManualClock)
    uploading = asyncio.create_task(front.upload(RED))
    await until(lambda: front.workers[1].faults._waiters)
    await clock.advance(2)
    await uploading
    assert front.files("input/x.png") == [RED, None]
    front.workers[1].faults.clear()
    await stage(front, 2, X)
    assert front.files("input/x.png") == [RED, RED]


@pytest.mark.parametrize("kind", ["input", "temp"])
async def test_an_upload_that_went_with_the_disk_is_viewed(front: Front, kind: str) -> None:
    """The primary came back empty, or was tidied unnoticed: the file is put there again."""
    await front.upload(RED, type=kind)
    await front.take_away(1)
    await front.bring_back(1, keep_files=False)
    assert await front.view(type=kind) == (200, RED)
    (front.workers[0].folders.base / kind / "x.png").unlink()
    assert await front.view(type=kind) == (200, RED)
    assert front.files(f"{kind}/x.png") == [RED, RED]


async def test_all_instances_came_back_empty(front: Front) -> None:
    """What is kept here is enough to bring an upload back to all."""
    await front.upload(RED, subfolder="a")
    for number in (1, 2):
        await front.take_away(number)
        await front.bring_back(number, keep_files=False)
    file = FileName(filename="x.png", subfolder="a", type="input")
    for number in (2, 1):
        await stage(front, number, file)
    assert front.files("input/a/x.png") == [RED, RED]


# --- masks ----------------------------------------------------------------------------------


def mask(alpha: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, alpha)).save(buffer, "PNG")
    return buffer.getvalue()


def pixel(content: bytes | None) -> Any:
    assert content is not None
    with Image.open(io.BytesIO(content)) as image:
        return image.getpixel((0, 0))


async def test_the_mask_editor_while_one_is_away(front: Front) -> None:
    """Upload, mask, mask of the mask under one name: the one that missed it all gets the last."""
    await front.take_away(1)
    await front.upload(RED, "o.png", subfolder="clipspace")
    reference = {"filename": "o.png", "subfolder": "clipspace", "type": "input"}
    for alpha in (10, 20):
        fields = {"original_ref": json.dumps(reference), "subfolder": "clipspace"}
        await front.upload(mask(alpha), "m.png", route="mask", overwrite="true", **fields)
        reference["filename"] = "m.png [input]"
    await front.bring_back(1, keep_files=False)
    file = FileName(filename="m.png", subfolder="clipspace", type="input")
    await stage(front, 1, file)
    assert [pixel(content) for content in front.files("input/clipspace/m.png")] == [
        (255, 0, 0, 20)
    ] * 2


async def test_a_mask_is_never_for_a_namesake(front: Front) -> None:
    """While the only one with the original is away, no other picture is masked in its place."""
    front.write(2, "output/o.png", BLUE)
    await front.upload(RED, "o.png", type="output")
    await front.take_away(1)
    form = aiohttp.FormData()
    form.add_field("image", mask(9), filename="m.png")
    form.add_field("original_ref", json.dumps({"filename": "o.png", "type": "output"}))
    async with front.client.post("/upload/mask", data=form) as answer:
        assert answer.status == 503
    assert front.files("input/m.png") == [None, None]


# --- names ----------------------------------------------------------------------------------

ODD_NAMES = [
    *("ä ö.png", "名.png", "e\u0301.png", "50%25.png", "a+b.png", "a;b.png", 'q"q.png', "it's.png"),
    *("a\\b.png", "a&b=c#d?.png", "x [temp] y.png", "@2.png", " .png", "no_ending", "~", "-rf"),
]


@pytest.mark.long
@pytest.mark.parametrize("name", ODD_NAMES)
async def test_odd_names_are_found_brought_and_viewed(front: Front, name: str) -> None:
    """Whatever ComfyUI takes as a name: an input on one disk, a result, and its marked copy."""
    front.write(2, f"input/s/{name}", RED)
    front.write(2, f"output/s/{name}", BLUE)
    await stage(front, 1, FileName(filename=name, subfolder="s", type="input"))
    await stage(front, 1, FileName(filename=name, subfolder="@2/s"))
    assert front.files(f"input/s/{name}") == [RED, RED]
    assert front.files(f"output/@2/s/{name}") == [BLUE, None]
    assert await front.view(name, "s", "input") == (200, RED)
    assert await front.view(name, "@2/s") == (200, BLUE)


@pytest.mark.parametrize("subfolder", ["ä ö", "50%25", "a+b", "a;b", "a&b=c#d?", '"', "@1", "@"])
async def test_odd_subfolders_behind_a_mark(front: Front, subfolder: str) -> None:
    """The owner is asked for exactly that folder."""
    front.write(2, f"output/{subfolder}/x.png", BLUE)
    assert await front.view(subfolder=f"@2/{subfolder}") == (200, BLUE)


async def test_a_clients_own_folder_that_looks_like_a_mark(front: Front) -> None:
    """A prefix ``@1/x`` at instance 2 is told as ``@2/@1`` and found there."""
    front.write(1, "output/x.png", RED)
    front.write(2, "output/@1/x.png", BLUE)
    output = [{"filename": "x.png", "subfolder": "@1", "type": "output"}]
    (told,) = front.gateway.files.storage.prefixed(output, front.instances[1])
    assert await front.view(subfolder=told["subfolder"]) == (200, BLUE)


@pytest.mark.parametrize(
    ("name", "subfolder", "path"),
    [("s/x.png", "", "s/x.png"), ("../x.png", "s", "x.png"), ("x.png", "s/../t", "t/x.png")],
)
async def test_uploads_that_walk_within_the_directory(
    front: Front, name: str, subfolder: str, path: str
) -> None:
    """What ComfyUI allows is the same place everywhere."""
    for number in (1, 2):
        front.write(number, "input/s/other.png", BLUE)
    assert (await front.upload(RED, name, subfolder=subfolder))["name"] == name
    assert front.files(f"input/{path}") == [RED, RED]


async def test_a_hash_is_asked_for_everywhere(front: Front) -> None:
    """A name that is the hash of the bytes can mean nothing else, whoever has it (2026)."""
    front.write(2, "output/blake3:0123", BLUE)
    assert await front.view("blake3:0123") == (200, BLUE)
    assert (await front.view("blake3:4567"))[0] == 404


async def test_a_name_that_no_form_can_carry(front: Front) -> None:
    """A line break in a name is no way into the form: it is not copied, and nothing else is."""
    name = 'a"\r\nContent-Disposition: form-data; name="subfolder"\r\n\r\nevil.png'
    front.write(2, f"input/{name.replace('/', '_')}", RED)
    await stage(front, 1, FileName(filename=name.replace("/", "_"), type="input"))
    assert front.workers[0].uploads == []
