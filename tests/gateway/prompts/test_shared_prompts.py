"""Two workers with one base directory behind the whole application: one ComfyUI to its clients."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from prompts_front import Workers, ended, get, graph, listening, png, post, until, upload

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import GATEWAY

KINDS = ("input", "output", "temp")


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


@pytest.fixture
async def front(workers: Workers, start_proxy: Callable[..., Any]) -> Any:
    http = await start_proxy(*workers, shared_storage="auto")
    await until(lambda: len(shared(http)) == 2)
    return http


def shared(http: Any) -> set[Any]:
    """The instances of which it is known that they share everything."""
    storage = http.app[GATEWAY].files.storage
    return set.intersection(*(set(storage.common(kind)) for kind in KINDS))


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


async def test_nothing_is_renamed_and_nothing_copied(front: Any, workers: Workers) -> None:
    """An upload is one file, prompts on both use it, and their results bear no mark: in events,
    history and ``/view``."""
    for worker in workers:
        worker.uploads.clear()
    name = await upload(front, png("red"), "in.png")
    async with listening(front) as client:
        ids = [
            await post(front, loads(name, f"p{n}"), client_id=client.client_id) for n in range(6)
        ]
        await until(lambda: all(client.over(prompt_id) for prompt_id in ids))
        assert all(worker.executed for worker in workers)
        told = [client.outputs(prompt_id) for prompt_id in ids]
    assert told == [
        [{"filename": f"p{n}_00001_.png", "subfolder": "", "type": "output"}] for n in range(6)
    ]
    entries = await ended(front, *ids)
    assert [entries[one]["outputs"]["3"]["images"] for one in ids] == told
    assert [await pixels(front, picture) for (picture,) in told] == [(255, 0, 0)] * 6
    assert [worker.uploads for worker in workers] == [["input/in.png"], []]


async def test_an_upload_is_in_the_enum_at_once(front: Any) -> None:
    """A client that asks after its upload finds it among LoadImage's pictures."""
    await get(front, "/object_info/LoadImage")
    name = await upload(front, png("red"), "fresh.png")
    info = await get(front, "/object_info/LoadImage")
    assert name in info["LoadImage"]["input"]["required"]["image"][0]


@pytest.mark.parametrize("mark", ["", "@1/", "@2/"])
async def test_an_earlier_result_as_input(front: Any, mark: str) -> None:
    """Under its name, and under the names that were told before it was known what is shared."""
    (made,) = (await ended(front, await post(front, graph(color=0x00FF00, prefix="r")))).values()
    name = made["outputs"]["3"]["images"][0]["filename"]
    ids = await asyncio.gather(
        *(post(front, loads(f"{mark}{name} [output]", f"again{n}")) for n in range(4))
    )
    for entry in (await ended(front, *ids)).values():
        (picture,) = entry["outputs"]["3"]["images"]
        assert await pixels(front, picture) == (0, 255, 0)


async def test_prompts_while_it_is_found_out(
    workers: Workers, start_proxy: Callable[..., Any]
) -> None:
    """Whatever is told before, meanwhile and after resolves: marked or not, each its own bytes."""
    http = await start_proxy(*workers, shared_storage="auto")
    colours = [0x0000FF, 0x00FF00, 0xFF0000, 0xFFFF00, 0xFF00FF, 0x00FFFF]
    async with listening(http) as client:
        ids = []
        for number, colour in enumerate(colours):
            prompt = graph(0.01, color=colour, prefix=f"c{number}")
            ids.append(await post(http, prompt, client_id=client.client_id))
        await until(lambda: all(client.over(prompt_id) for prompt_id in ids))
        await until(lambda: len(shared(http)) == 2)
        for prompt_id, colour in zip(ids, colours, strict=True):
            (picture,) = client.outputs(prompt_id)
            rgb = (colour >> 16, colour >> 8 & 0xFF, colour & 0xFF)
            assert await pixels(http, picture) == rgb
