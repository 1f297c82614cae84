"""One disk for all instances, and ``SHARED_STORAGE`` does not say so: every picture is right, and
no file is written over itself."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from files_front import Front, front_over, picture
from PIL import Image

from comfy_proxy.gateway.files import file_holders, file_staging
from comfy_proxy.gateway.files.file_name import FileName

RED, BLUE = picture("red"), picture("blue")
KINDS = ("input", "output", "temp")
COPY = FileName(filename="r.png", subfolder="@1")


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with front_over(tmp_path, tmp_path) as front:
        yield front


async def stage(front: Front, number: int, file: FileName, **options: Any) -> bool:
    return await front.gateway.staging.stage(file, front.instances[number - 1], **options)


def on_disk(front: Front) -> dict[str, bytes]:
    base = front.workers[0].folders.base
    folders = [base / kind for kind in KINDS]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(base)): path.read_bytes() for path in files}


def while_the_second_looks(monkeypatch: pytest.MonkeyPatch, front: Front, then: Any) -> None:
    """Once, after instance 2 has said what it has and before that is known here."""
    look, is_first = file_holders.look, True

    async def wrapper(instance: Any, *more: Any) -> Any:
        nonlocal is_first
        found = await look(instance, *more)
        if is_first and instance is front.instances[1]:
            is_first = False
            await then()
        return found

    monkeypatch.setattr(file_holders, "look", wrapper)


# --- nothing is written over itself ---------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_a_file_is_never_copied_onto_itself(front: Front, kind: str) -> None:
    """An upload, the newer one over it, and a file of somebody's: read there, and not written."""
    await front.upload(RED, type=kind)
    await front.upload(BLUE, overwrite="true", type=kind)
    front.write(1, f"{kind}/own.png", RED)
    files = [FileName(filename=name, type=kind) for name in ("x.png", "own.png")]
    for instance in front.instances:
        for file in files:
            assert await front.gateway.staging.stage(file, instance, fresh=True)
    assert [len(worker.uploads) for worker in front.workers] == [2, 0]
    assert front.files(f"{kind}/x.png") == [BLUE, BLUE]


async def test_two_instances_do_not_take_the_same_copy_at_once(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one would compare its bytes with a half of them, and keep them under a name of
    their own beside it."""
    front.write(1, "output/r.png", RED)
    put, writing, at_once = file_staging.put, 0, 0

    async def counted(*arguments: Any, **named: Any) -> None:
        nonlocal writing, at_once
        writing += 1
        at_once = max(at_once, writing)
        try:
            await put(*arguments, **named)
        finally:
            writing -= 1

    monkeypatch.setattr(file_staging, "put", counted)
    assert await asyncio.gather(*(stage(front, number, COPY, fresh=True) for number in (1, 2)))
    assert at_once == 1
    assert on_disk(front) == {"output/r.png": RED, "output/@1/r.png": RED}


async def test_a_copy_of_a_result_is_made_once(front: Front) -> None:
    """Under its marked name, by whichever instance needs it first; the others find it."""
    front.write(1, "output/r.png", RED)
    for number in (2, 1, 2):
        assert await stage(front, number, COPY, fresh=True)
    assert [worker.uploads for worker in front.workers] == [[], ["output/@1/r.png"]]
    assert on_disk(front) == {"output/r.png": RED, "output/@1/r.png": RED}


@pytest.mark.parametrize("kind", ["input", "output", "temp"])
async def test_two_that_need_a_copy_at_once(
    front: Front, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The one that looked before the other got it leaves the file alone: a prompt may read it."""
    file = COPY if kind == "output" else FileName(filename="x.png", type=kind)
    path = front.workers[0].folders.base / kind / file.subfolder / file.filename
    if kind == "output":
        front.write(1, "output/r.png", RED)
    else:
        await front.upload(RED, type=kind)
        path.unlink()
        for instance in front.instances:
            front.gateway.files.holdings.forget(instance)
    written: list[tuple[int, int]] = []

    async def bring_it_to_the_first() -> None:
        assert await stage(front, 1, file)
        written.append((path.stat().st_mtime_ns, path.stat().st_ino))

    while_the_second_looks(monkeypatch, front, bring_it_to_the_first)
    assert await stage(front, 2, file)
    assert written == [(path.stat().st_mtime_ns, path.stat().st_ino)]
    assert path.read_bytes() == RED
    assert len(on_disk(front)) == (2 if kind == "output" else 1)
    assert all(front.gateway.files.holdings.version(one, file) for one in front.instances)


async def test_what_somebody_writes_meanwhile_is_not_lost(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that saves under the name of an upload that had gone: its picture stays."""
    await front.upload(RED, type="temp")
    (front.workers[0].folders.base / "temp" / "x.png").unlink()
    front.gateway.files.holdings.forget(front.instances[1])

    async def save() -> None:
        front.write(2, "temp/x.png", BLUE)

    while_the_second_looks(monkeypatch, front, save)
    await stage(front, 2, FileName(filename="x.png", type="temp"))
    assert front.files("temp/x.png") == [BLUE, BLUE]


async def test_an_upload_that_one_has_missed(front: Front) -> None:
    """It was away, but its disk was not: the newer bytes are there, and stay as they are."""
    await front.upload(RED)
    await front.take_away(2)
    await front.upload(BLUE, overwrite="true")
    await front.bring_back(2)
    assert await stage(front, 2, FileName(filename="x.png", type="input"))
    assert front.files("input/x.png") == [BLUE, BLUE]
    assert [len(worker.uploads) for worker in front.workers] == [2, 0]


async def test_after_a_restart_of_the_proxy(tmp_path: Path) -> None:
    """It remembers nothing: what is there is used as it is."""
    async with front_over(tmp_path, tmp_path) as before:
        await before.upload(RED)
        before.write(1, "output/r.png", BLUE)
        assert await stage(before, 2, COPY)
    async with front_over(tmp_path, tmp_path) as front:
        files = (
            FileName(filename="x.png", type="input"),
            FileName(filename="r.png"),
            COPY,
        )
        for file in files:
            for number in (1, 2):
                assert await stage(front, number, file)
        assert [worker.uploads for worker in front.workers] == [[], []]
        assert await front.view(type="input") == (200, RED)
        for subfolder in ("", "@1", "@2"):
            assert await front.view("r.png", subfolder) == (200, BLUE)


# --- every picture is the right one ---------------------------------------------------------


async def test_a_result_by_all_its_names(front: Front) -> None:
    """Bare or marked, whoever is said to have made it; and as an input of either instance."""
    front.write(1, "output/a/r.png", RED)
    front.gateway.files.made(FileName(filename="r.png", subfolder="a"), front.instances[0])
    for subfolder in ("a", "@1/a", "@2/a"):
        assert await front.view("r.png", subfolder) == (200, RED)
        for number in (1, 2):
            file = FileName(filename="r.png", subfolder=subfolder)
            assert await stage(front, number, file)
            assert front.files(f"output/{subfolder}/r.png") == [RED, RED]


async def test_a_result_that_is_saved_again(front: Front) -> None:
    """Its copies are made anew, once, wherever it is needed next."""
    front.write(1, "output/r.png", RED)
    assert await stage(front, 2, COPY)
    front.write(1, "output/r.png", picture("green"))
    for number in (1, 2):
        assert await stage(front, number, COPY)
    assert front.files("output/@1/r.png") == [picture("green")] * 2
    assert sum(len(worker.uploads) for worker in front.workers) == 2


@pytest.mark.parametrize("subfolder", ["", "@1", "@2"])
async def test_a_mask_for_a_result(front: Front, subfolder: str) -> None:
    """By each of its names."""
    front.write(1, "output/r.png", RED)
    front.gateway.files.made(FileName(filename="r.png"), front.instances[1])
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 77)).save(buffer, "PNG")
    reference = {"filename": "r.png", "subfolder": subfolder, "type": "output"}
    fields = {"original_ref": json.dumps(reference), "subfolder": "clipspace"}
    for _ in range(2):
        await front.upload(buffer.getvalue(), "m.png", route="mask", overwrite="true", **fields)
        assert await stage(
            front, 2, FileName(filename="m.png", subfolder="clipspace", type="input")
        )
    with Image.open(io.BytesIO(on_disk(front)["input/clipspace/m.png"])) as image:
        assert image.getpixel((0, 0)) == (255, 0, 0, 77)
    assert [name for name in on_disk(front) if name.startswith("input/")] == [
        "input/clipspace/m.png"
    ]
