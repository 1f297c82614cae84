"""Two workers with one base directory behind the whole application: one ComfyUI to its clients."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from PIL import Image
from prompts_front import Workers, ended, get, graph, listening, png, post, recover, until, upload

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.gateway.files.file_name import FILE_TYPES
from comfy_proxy.keys import GATEWAY


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[Workers]:
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(
                EmbeddedWorker(base_directory=tmp_path, name=name, test_nodes=True)
            )
            for name in ("one", "two")
        ]
        yield one, two


@pytest.fixture(params=["said", "unsaid"])
async def front(
    workers: Workers, start_proxy: Callable[..., Any], request: pytest.FixtureRequest
) -> Any:
    """The proxy in front of them, that knows of it by its settings or does not."""
    return await start_proxy(
        *workers, shared_storage=FILE_TYPES if request.param == "said" else frozenset()
    )


def loads(name: str, prefix: str) -> dict[str, Any]:
    """A graph that loads a file, takes its time and saves it."""
    return {
        **graph(0.05, prefix=prefix),
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
    }


async def pixels(http: Any, picture: dict[str, str]) -> Any:
    async with http.get("/view", params=picture) as answer:
        assert answer.status == 200
        with Image.open(io.BytesIO(await answer.read())) as image:
            return image.convert("RGB").getpixel((0, 0))


@pytest.mark.parametrize("front", ["said"], indirect=True)
async def test_nothing_is_renamed(front: Any) -> None:
    """Where it is said, results bear no mark: in events and in the history."""
    async with listening(front) as client:
        ids = [
            await post(front, graph(0.05, prefix=f"p{n}"), client_id=client.client_id)
            for n in range(6)
        ]
        await until(lambda: all(client.over(prompt_id) for prompt_id in ids))
        told = [client.outputs(prompt_id) for prompt_id in ids]
    assert told == [
        [{"filename": f"p{n}_00001_.png", "subfolder": "", "type": "output"}] for n in range(6)
    ]
    entries = await ended(front, *ids)
    assert [entries[one]["outputs"]["3"]["images"] for one in ids] == told


@pytest.mark.long
async def test_an_upload_is_one_file(front: Any, workers: Workers) -> None:
    """Prompts on both use it, it is written once, also over an older one, and every picture is
    found as it was told."""
    await upload(front, png("red"), "in.png")
    form = aiohttp.FormData()
    form.add_field("image", png("blue"), filename="in.png", content_type="image/png")
    form.add_field("overwrite", "true")
    async with front.post("/upload/image", data=form) as answer:
        assert answer.status == 200
    async with listening(front) as client:
        ids = [
            await post(front, loads("in.png", f"p{n}"), client_id=client.client_id)
            for n in range(6)
        ]
        await until(lambda: all(client.over(prompt_id) for prompt_id in ids))
        assert all(worker.executed for worker in workers)
        told = [client.outputs(prompt_id) for prompt_id in ids]
    entries = await ended(front, *ids)
    assert [entries[one]["outputs"]["3"]["images"] for one in ids] == told
    assert [await pixels(front, picture) for (picture,) in told] == [(0, 0, 255)] * 6
    assert [worker.uploads for worker in workers] == [["input/in.png"] * 2, []]


async def test_an_upload_is_in_the_enum_at_once(front: Any) -> None:
    """A client that asks after its upload finds it among LoadImage's pictures."""
    await get(front, "/object_info/LoadImage")
    name = await upload(front, png("red"), "fresh.png")
    info = await get(front, "/object_info/LoadImage")
    assert name in info["LoadImage"]["input"]["required"]["image"][0]


@pytest.mark.long
@pytest.mark.parametrize("mark", ["", "@1/", "@2/"])
async def test_an_earlier_result_as_input(front: Any, workers: Workers, mark: str) -> None:
    """Under its name, and under marked names, of whichever instance: what is copied for it is
    written once."""
    (made,) = (await ended(front, await post(front, graph(color=0x00FF00, prefix="r")))).values()
    name = made["outputs"]["3"]["images"][0]["filename"]
    ids = await asyncio.gather(
        *(post(front, loads(f"{mark}{name} [output]", f"again{n}")) for n in range(4))
    )
    for entry in (await ended(front, *ids)).values():
        (picture,) = entry["outputs"]["3"]["images"]
        assert await pixels(front, picture) == (0, 255, 0)
    base = workers[0].folders.base
    copies = [f"{mark}{name}"] if mark else []
    copied = {str(one.relative_to(base / "output")) for one in (base / "output").rglob("@*/*")}
    assert sorted(copied) == copies


async def test_a_folder_of_uploads(front: Any, workers: Workers) -> None:
    """A graph that names it runs on both, and nothing in it is written again."""
    for colour in ("red", "blue"):
        form = aiohttp.FormData()
        form.add_field("image", png(colour), filename=f"{colour}.png", content_type="image/png")
        form.add_field("subfolder", "set")
        async with front.post("/upload/image", data=form) as answer:
            assert answer.status == 200
    gateway = front.app[GATEWAY]
    named = {"1": {"class_type": "LoadFolderOfSomebody", "inputs": {"folder": "set"}}}
    for instance in gateway.cluster.instances:
        assert await gateway.inputs.stage(named, instance)
        assert await gateway.inputs.stage(named, instance, fresh=True)
    assert [worker.uploads for worker in workers] == [
        ["input/set/red.png", "input/set/blue.png"],
        [],
    ]


@pytest.mark.long
async def test_a_prompt_whose_instance_dies_runs_at_the_other(front: Any, workers: Workers) -> None:
    """Its upload is there, and its picture is found, also after the first one is back."""
    name = await upload(front, png("red"), "in.png")
    long = loads(name, "replayed")
    long["2"]["inputs"]["seconds"] = 0.5
    mine = await post(front, long)
    at = next(worker for worker in workers if mine in worker.submitted)
    await at.kill()
    entry = (await ended(front, mine))[mine]
    (picture,) = entry["outputs"]["3"]["images"]
    assert await pixels(front, picture) == (255, 0, 0)
    await at.restart()
    await recover(front, at)
    assert await pixels(front, picture) == (255, 0, 0)
    again = await ended(front, *[await post(front, loads(name, f"after{n}")) for n in range(4)])
    for entry in again.values():
        (picture,) = entry["outputs"]["3"]["images"]
        assert await pixels(front, picture) == (255, 0, 0)
    assert sum(worker.uploads.count("input/in.png") for worker in workers) == 1


async def test_lists_show_each_file_once(front: Any) -> None:
    """What both list is one file."""
    await upload(front, png("red"), "in.png")
    await ended(front, await post(front, graph(prefix="r")))
    assert await get(front, "/internal/files/input") == ["in.png"]
    assert await get(front, "/internal/files/output") == ["r_00001_.png"]
    info = await get(front, "/object_info/LoadImage")
    assert info["LoadImage"]["input"]["required"]["image"][0].count("in.png") == 1
