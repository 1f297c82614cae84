"""A result named without its mark as an input: the prompt runs where that name means it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from ledger_front import moves
from PIL import Image
from prompts_front import Workers, ended, graph, pile_up, png, post, show, until

from comfy_proxy.gateway.files.file_name import FileName
from comfy_proxy.keys import GATEWAY

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
async def front(workers: Workers, start_proxy: Callable[..., Any]) -> Any:
    """``x.png`` is a red picture at the first and a blue one at the second."""
    for worker, colour in zip(workers, (RED, BLUE), strict=True):
        (worker.folders.base / "output/x.png").write_bytes(png(colour))
    return await start_proxy(*workers)


def made_last(front: Any, number: int, name: str = "x.png") -> None:
    gateway = front.app[GATEWAY]
    gateway.files.made(FileName(filename=name), gateway.cluster.instances[number - 1])


def copies(name: str = "x.png [output]") -> dict[str, Any]:
    return {
        **graph(0.01, prefix="copy"),
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
    }


async def colours(front: Any, *prompt_ids: str) -> list[Any]:
    entries = await ended(front, *prompt_ids)
    found = []
    for prompt_id in prompt_ids:
        (picture,) = entries[prompt_id]["outputs"]["3"]["images"]
        async with front.get("/view", params=picture) as answer:
            with Image.open(io.BytesIO(await answer.read())) as image:
                found.append(image.convert("RGB").getpixel((0, 0)))
    return found


@pytest.mark.long
@pytest.mark.parametrize(("maker", "colour"), [(1, RED), (2, BLUE)])
async def test_it_runs_where_the_name_was_made_last(
    front: Any, workers: Workers, maker: int, colour: Any
) -> None:
    """However much waits there, a burst of them all use the picture that ``/view`` shows."""
    made_last(front, maker)
    ids = [await post(front, copies()) for _ in range(6)]
    assert await colours(front, *ids) == [colour] * 6
    assert workers[2 - maker].submitted == []


async def test_without_a_record_it_is_the_picture_of_view(front: Any) -> None:
    """After a restart of the proxy the first that has the name is meant, here as there."""
    async with front.get("/view?filename=x.png") as answer:
        assert await answer.read() == png(RED)
    assert await colours(front, *[await post(front, copies()) for _ in range(4)]) == [RED] * 4


async def test_one_that_lacks_the_name_may_take_it(front: Any, workers: Workers) -> None:
    """It gets a copy; what others made is untouched."""
    (workers[0].folders.base / "output/x.png").unlink()
    ids = [await post(front, copies()) for _ in range(6)]
    assert await colours(front, *ids) == [BLUE] * 6
    assert all(worker.submitted for worker in workers)


async def test_the_maker_is_away(front: Any, workers: Workers) -> None:
    """Not now: the other picture of that name is not what is meant."""
    made_last(front, 2)
    await workers[1].kill()
    async with front.post("/prompt", json={"prompt": copies()}) as answer:
        assert answer.status == 503
    assert workers[0].submitted == []


@pytest.mark.long
async def test_it_does_not_move_to_where_the_name_means_another(
    front: Any, workers: Workers
) -> None:
    """An idle instance takes the other prompts and leaves this one."""
    made_last(front, 1)
    blocker, *_ = await pile_up(front, workers, 2)
    mine = await post(front, copies())
    others = [await post(front, graph(0.01)) for _ in range(3)]
    await show(front, workers[1])
    await ended(front, *others)
    assert mine not in workers[1].submitted
    async with front.post("/interrupt", json={"prompt_id": blocker}) as answer:
        assert answer.status == 200
    assert await colours(front, mine) == [RED]


async def test_an_uploaded_output_takes_no_results_place(front: Any, workers: Workers) -> None:
    """An upload of type output under the name of another's result: both stay what they are, and
    prompts that name the upload run where it is."""
    (workers[0].folders.base / "output/x.png").unlink()
    form = aiohttp.FormData()
    form.add_field("image", png("green"), filename="x.png", content_type="image/png")
    form.add_field("type", "output")
    async with front.post("/upload/image", data=form) as answer:
        assert await answer.json() == {"name": "x.png", "subfolder": "", "type": "output"}
    async with front.get("/view?filename=x.png&subfolder=@2") as answer:
        assert await answer.read() == png(BLUE)
    async with front.get("/view?filename=x.png") as answer:
        assert await answer.read() == png("green")
    ids = [await post(front, copies()) for _ in range(4)]
    assert await colours(front, *ids) == [(0, 128, 0)] * 4
    assert workers[1].submitted == []
    await until(lambda: not moves(front.app[GATEWAY]))
