"""Directories that all instances have in common, as ``SHARED_STORAGE`` says it."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from files_front import Front, front_over, picture
from PIL import Image

from comfy_proxy.gateway.files.file_name import FILE_TYPES, FileName

RED, BLUE = picture("red"), picture("blue")
KINDS = ("input", "output", "temp")


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[Front]:
    async with front_over(tmp_path, tmp_path, shared_storage=FILE_TYPES) as front:
        yield front


async def test_an_upload_is_written_once(shared: Front) -> None:
    """Input, output or temp: no copy, and it can be viewed."""
    for kind in KINDS:
        await shared.upload(RED, type=kind)
        assert await shared.view(type=kind) == (200, RED)
        for instance in shared.instances:
            assert await shared.gateway.staging.stage(
                FileName(filename="x.png", type=kind), instance
            )
    assert [len(worker.uploads) for worker in shared.workers] == [3, 0]


@pytest.mark.parametrize("kind", KINDS)
async def test_only_one_of_the_three(tmp_path: Path, kind: str) -> None:
    """The other two are each instance's own: copied, and their results marked."""
    one, two = tmp_path / "one", tmp_path / "two"
    for base in (one, two):
        base.mkdir()
    (one / kind).mkdir()
    (two / kind).symlink_to(one / kind)
    async with front_over(one, two, shared_storage=frozenset({kind})) as front:
        for each in KINDS:
            await front.upload(RED, type=each)
        copied = [f"{each}/x.png" for each in KINDS if each != kind]
        assert [worker.uploads for worker in front.workers] == [
            [f"{each}/x.png" for each in KINDS],
            copied,
        ]
        output = [{"filename": "x.png", "subfolder": "", "type": each} for each in KINDS]
        told = front.gateway.files.storage.prefixed(output, front.instances[1])
        marked = {one["type"]: one["subfolder"] for one in told}
        own = {"input": "", "output": "@2", "temp": "@2"}
        assert marked == {**own, kind: ""}


async def test_whoever_shares_the_directory_answers_for_an_owner_that_is_away(
    tmp_path: Path,
) -> None:
    """One after the other, until one can be reached: all of them have the same file."""
    bases = (tmp_path, tmp_path, tmp_path)
    async with front_over(*bases, shared_storage=frozenset({"output"})) as front:
        front.write(1, "output/a/x.png", RED)
        for worker in front.workers[:2]:
            await worker.kill()
        assert await front.view(subfolder="@2/a") == (200, RED)


async def test_prefixes_of_before_are_understood(shared: Front) -> None:
    """Names that were told before the setting was made: in /view, also when their owner is away,
    and in graphs."""
    shared.write(1, "output/a/x.png", RED)
    assert await shared.view(subfolder="@2/a") == (200, RED)
    file = FileName(filename="x.png", subfolder="@2/a")
    assert await shared.gateway.staging.stage(file, shared.instances[0])
    assert shared.files("output/@2/a/x.png") == [RED, RED]
    await shared.take_away(2)
    assert await shared.view(subfolder="@2/a") == (200, RED)


async def test_a_bare_name_is_not_looked_for(shared: Front) -> None:
    """Whoever made it, the first that is there answers, with one request."""
    shared.write(2, "output/x.png", RED)
    kinds: list[str] = []
    for instance in shared.instances:
        instance.observers.append(lambda attempt: kinds.append(attempt.kind))
    assert await shared.view() == (200, RED)
    assert kinds == ["forward"]
    await shared.take_away(1)
    assert await shared.view() == (200, RED)


async def test_who_made_a_result_need_not_be_there(shared: Front) -> None:
    """To look at it or to mask it: whoever is there has it."""
    shared.write(2, "output/o.png", RED)
    file = FileName(filename="o.png")
    shared.gateway.files.made(file, shared.instances[1])
    await shared.take_away(2)
    assert await shared.gateway.files.locate(file) is shared.instances[0]
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 77)).save(buffer, "PNG")
    reference = json.dumps({"filename": "o.png", "type": "output"})
    await shared.upload(buffer.getvalue(), "m.png", route="mask", original_ref=reference)
    masked = shared.files("input/m.png")[0]
    assert masked is not None
    with Image.open(io.BytesIO(masked)) as image:
        assert image.getpixel((0, 0)) == (255, 0, 0, 77)


async def test_what_was_made_of_an_upload_since_is_left(shared: Front) -> None:
    """A file that somebody changed on the common disk is not put back after a restart; one that
    went with it is."""
    await shared.upload(RED)
    await shared.upload(RED, "t.png", type="temp")
    shared.write(1, "input/x.png", BLUE)
    await shared.take_away(2)
    await shared.bring_back(2, keep_files=True)
    (shared.workers[0].folders.base / "temp" / "t.png").unlink(missing_ok=True)
    for name, kind in (("x.png", "input"), ("t.png", "temp")):
        await shared.gateway.staging.stage(FileName(filename=name, type=kind), shared.instances[1])
    assert shared.files("input/x.png") == [BLUE, BLUE]
    assert shared.files("temp/t.png") == [RED, RED]


async def test_what_goes_with_the_restart_of_another_is_asked_for_again(shared: Front) -> None:
    """A common temp is emptied by whoever starts: what the others held there is in doubt too."""
    await shared.upload(RED, type="temp")
    (shared.workers[0].folders.base / "temp" / "x.png").unlink()
    shared.instances[1].socket_lost()
    file = FileName(filename="x.png", type="temp")
    assert await shared.gateway.staging.stage(file, shared.instances[0])
    assert shared.files("temp/x.png") == [RED, RED]
