"""A graph that names a folder of the input directory has the same files wherever it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from files_front import Front, picture, running_front
from views_harness import run

from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.gateway.files.file_name import FileName
from comfy_proxy.gateway.files.records import UploadRecords
from comfy_proxy.gateway.files.staging import MAX_NAME_CHARS, InputStaging, folder_files_in_graph
from comfy_proxy.stored_bytes import StoredBytes

COLOURS = ("red", "blue", "green", "white", "black")
COMBO = {"input": {"required": {"any": ["COMBO", {"options": ["3d"]}], "text": ["STRING", {}]}}}
CATALOG = NodeCatalog.from_json({"Folder": COMBO})


@pytest.fixture
async def front(workers: tuple[EmbeddedWorker, EmbeddedWorker]) -> AsyncIterator[Front]:
    async with running_front(*workers) as front:
        yield front


def graph(folder: str, **more: Any) -> dict[str, Any]:
    """A class that loads a folder; nothing in it tells by its name what it does."""
    return {"1": {"class_type": "Folder", "inputs": {"any": folder, **more}}}


async def stage(front: Front, number: int, folder: str, **options: Any) -> bool:
    gateway = front.gateway
    inputs = InputStaging(gateway.files, gateway.staging, lambda _: CATALOG, several=True)
    return await inputs.stage(graph(folder), front.instances[number - 1], **options)


async def fill(front: Front, folder: str, *numbers: int) -> None:
    for number in numbers:
        await front.upload(picture(COLOURS[number]), f"p{number}.png", subfolder=folder)


def names(front: Front, folder: str) -> list[list[str]]:
    """What each worker has in that folder."""
    folders = [worker.folders.input / folder for worker in front.workers]
    return [sorted(one.name for one in it.glob("*.png")) for it in folders]


async def test_one_that_was_away_gets_what_it_missed(front: Front) -> None:
    """Some pictures came before, some while it was away, one was replaced: it has them all."""
    await fill(front, "set1", 0, 1)
    await front.take_away(2)
    await fill(front, "set1", 2, 3)
    await fill(front, "set1/inner", 4)
    await front.upload(picture("yellow"), "p0.png", subfolder="set1", overwrite="true")
    await front.bring_back(2)
    assert names(front, "set1")[1] == ["p0.png", "p1.png"]
    assert await stage(front, 2, "set1")
    assert names(front, "set1") == [[f"p{number}.png" for number in range(4)]] * 2
    assert names(front, "set1/inner") == [["p4.png"]] * 2
    assert front.files("input/set1/p0.png") == [picture("yellow")] * 2


async def test_it_runs_with_the_same_pictures_everywhere(front: Front) -> None:
    """The class that ComfyUI has: as many results at each instance."""
    await front.take_away(2)
    await fill(front, "set1", 0, 1, 2)
    await front.bring_back(2)
    node_info = front.gateway.cluster.object_info
    for instance in front.instances:
        await node_info.of(instance)
    load = {"class_type": "LoadImageDataSetFromFolder", "inputs": {"folder": "set1"}}
    save = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "all"}}
    prompt = {"1": load, "2": save}
    for instance, worker in zip(front.instances, front.workers, strict=True):
        assert await front.gateway.inputs.stage(prompt, instance)
        await run(worker, "any", prompt)
    made = [len(list((worker.folders.base / "output").iterdir())) for worker in front.workers]
    assert made == [3, 3]


async def test_what_is_known_is_not_asked(front: Front) -> None:
    """Uploads that both have cost no request."""
    await fill(front, "set1", 0, 1)
    asked: list[str] = []
    for instance in front.instances:
        instance.observers.append(lambda attempt: asked.append(attempt.kind))
    assert await stage(front, 1, "set1")
    assert await stage(front, 2, "set1")
    assert asked == []


async def test_it_does_not_run_where_a_picture_cannot_be_brought(front: Front) -> None:
    """It would end with "success" and fewer pictures; where all of them are it runs."""
    await front.take_away(2)
    await fill(front, "set1", 0, 1)
    await front.bring_back(2)
    front.workers[1].faults.disk_full = True
    assert not await stage(front, 2, "set1")
    assert await stage(front, 1, "set1")
    front.workers[1].faults.clear()
    assert await stage(front, 2, "set1")


@pytest.mark.long
async def test_many_files_are_brought_a_few_at_a_time(front: Front) -> None:
    """A hundred at once would wait for a connection longer than a question may take."""
    await front.take_away(2)
    for number in range(40):
        await front.upload(picture("red"), f"{number:02}.png", subfolder="many")
    await front.bring_back(2)
    assert await stage(front, 2, "many")
    assert [len(one) for one in names(front, "many")] == [40, 40]


async def uploaded(*files: FileName, **limits: int) -> UploadRecords:
    records = UploadRecords(**limits)
    for file in files:
        content = StoredBytes()
        await content.write(b"x")
        records.keep(file, await content.finish())
    return records


async def test_which_files_a_folder_stands_for() -> None:
    """Those of the input directory below it; a text is no choice, and no class says it is none."""
    a = FileName(filename="a", subfolder="set1", type="input")
    b = FileName(filename="b", subfolder="set1/x", type="input")
    result = FileName(filename="c", subfolder="set1", type="output")
    records = await uploaded(a, b, result, FileName(filename="d", type="input"))
    assert folder_files_in_graph(graph("set1"), CATALOG, records) == [a, b]
    assert folder_files_in_graph(graph("set1\\x/"), CATALOG, records) == [b]
    assert folder_files_in_graph(graph("set1"), NodeCatalog(), records) == [a, b]
    for prompt in (graph(""), graph("set"), graph("3d", text="set1"), {"1": None, "2": {}}):
        assert folder_files_in_graph(prompt, CATALOG, records) == []


def test_a_text_that_is_too_long_for_a_name_is_no_folder() -> None:
    """It is not looked for, nor taken apart: 16 MB of base64 took 20 ms each time."""
    asked: list[str] = []

    class Records(UploadRecords):
        def below(self, folder: str) -> list[FileName]:
            asked.append(folder)
            return []

    for name in ("x" * MAX_NAME_CHARS, "x" * (MAX_NAME_CHARS + 1)):
        folder_files_in_graph(graph(name), NodeCatalog(), Records())
    assert [len(one) for one in asked if one.startswith("xx")] == [MAX_NAME_CHARS]


async def test_what_is_forgotten_is_below_nothing() -> None:
    """One by one, and when they are crowded out."""
    files = [FileName(filename=name, subfolder="a/b", type="input") for name in "123"]
    records = await uploaded(*files, max_records=2)
    assert records.below("a") == records.below("a/b") == files[1:]
    for file in files:
        records.forget(file)
    assert records.below("a") == records.below("a/b") == []
    records.close()
