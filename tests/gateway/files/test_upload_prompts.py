"""Uploads and the prompts that name them, through the whole application: always the newest."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from PIL import Image
from prompts_front import Workers, ended, get, graph, png, post, recover

COLOURS = [(60 * number, 255 - 60 * number, 128) for number in range(4)]


@pytest.fixture
async def front(workers: Workers, start_proxy: Callable[..., Any]) -> Any:
    http = await start_proxy(*workers)
    for worker in workers:
        await recover(http, worker)
    return http


async def overwrite(http: Any, colour: Any, name: str = "x.png", kind: str = "input") -> None:
    form = aiohttp.FormData()
    form.add_field("image", png(colour), filename=name, content_type="image/png")
    form.add_field("type", kind)
    form.add_field("overwrite", "true")
    async with http.post("/upload/image", data=form) as answer:
        assert await answer.json() == {"name": name, "subfolder": "", "type": kind}


def loads(name: str = "x.png") -> dict[str, Any]:
    return {**graph(0.01), "1": {"class_type": "LoadImage", "inputs": {"image": name}}}


async def colour_of(http: Any, entry: Any) -> Any:
    (picture,) = entry["outputs"]["3"]["images"]
    async with http.get("/view", params=picture) as answer:
        with Image.open(io.BytesIO(await answer.read())) as image:
            return image.convert("RGB").getpixel((0, 0))


async def colours(http: Any, prompt: Callable[[], dict[str, Any]], count: int = 4) -> list[Any]:
    """The colours of so many prompts at once."""
    ids = [await post(http, prompt()) for _ in range(count)]
    return [await colour_of(http, entry) for entry in (await ended(http, *ids)).values()]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["input", "temp", "output"])
async def test_each_overwrite_is_what_the_next_prompts_read(
    front: Any, workers: Workers, kind: str
) -> None:
    """On both instances, over and over."""
    name = "x.png" if kind == "input" else f"x.png [{kind}]"
    for colour in COLOURS:
        await overwrite(front, colour, kind=kind)
        assert await colours(front, lambda: loads(name)) == [colour] * 4
    assert all(worker.executed for worker in workers)


@pytest.mark.long
@pytest.mark.parametrize("keep_files", [True, False])
@pytest.mark.parametrize("away", [0, 1])
async def test_an_overwrite_that_one_instance_missed(
    front: Any, workers: Workers, away: int, keep_files: bool
) -> None:
    """It comes back with the old picture, or with none, and its prompts read the new one."""
    await overwrite(front, COLOURS[0])
    await workers[away].kill()
    await overwrite(front, COLOURS[1])
    await workers[away].restart(keep_files=keep_files)
    await recover(front, workers[away])
    assert await colours(front, loads, 6) == [COLOURS[1]] * 6
    assert all(worker.executed for worker in workers)


async def test_an_input_that_went_unnoticed(front: Any, workers: Workers) -> None:
    """Somebody tidied both input directories: the prompts of an upload still run."""
    await overwrite(front, COLOURS[2])
    for worker in workers:
        (worker.folders.base / "input/x.png").unlink()
    assert await colours(front, loads) == [COLOURS[2]] * 4


async def test_a_cached_repeat_names_the_old_file(front: Any) -> None:
    """Trap 17: the same graph again makes nothing new, and its old name leads to its bytes."""
    prompt, entries = graph(color=0x00FF00), []
    for _ in range(5):  # without a client_id ComfyUI itself tells nothing of what is cached
        prompt_id = await post(front, prompt, client_id="polls")
        entries += (await ended(front, prompt_id)).values()
    assert [await colour_of(front, entry) for entry in entries] == [(0, 255, 0)] * 5
    names = [str(entry["outputs"]["3"]["images"][0]) for entry in entries]
    assert len(set(names)) <= 2  # one for each instance that has run it
    history = await get(front, "/history")
    assert [str(one["outputs"]["3"]["images"][0]) for one in history.values()] == names
