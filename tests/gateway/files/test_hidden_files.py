"""Files that ``/view`` shows to nobody (``a..png``): prompts that name one run where it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient
from ledger_front import moves
from prompts_front import Workers, ended, get, graph, instance_of, pile_up, png, post, show, until

from comfy_proxy.gateway.files.file_name import FILE_TYPES, FileName
from comfy_proxy.gateway.files.instance_prefix import prefix_outputs
from comfy_proxy.keys import GATEWAY

NAMES = ["a..png", "..a.png", "a...b.png"]


def loads(name: str) -> Any:
    return {**graph(0.01), "1": {"class_type": "LoadImage", "inputs": {"image": name}}}


def put(worker: Any, path: str, colour: str = "red") -> None:
    """On the disk directly."""
    target = worker.folders.base / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(png(colour))


async def upload(http: TestClient, name: str, colour: str, **fields: str) -> Any:
    form = aiohttp.FormData(quote_fields=False)
    form.add_field("image", png(colour), filename=name, content_type="image/png")
    for key, value in fields.items():
        form.add_field(key, value)
    async with http.post("/upload/image", data=form) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


@pytest.mark.long
@pytest.mark.parametrize("holder", [0, 1])
@pytest.mark.parametrize("name", NAMES)
async def test_a_prompt_runs_where_the_file_is(
    proxy: TestClient, workers: Workers, holder: int, name: str
) -> None:
    """However it came there; the other instance cannot be given it."""
    put(workers[holder], f"input/{name}")
    ids = [await post(proxy, loads(name)) for _ in range(4)]
    await ended(proxy, *ids)
    assert workers[holder].submitted == ids


@pytest.mark.long
@pytest.mark.parametrize("kind", ["output", "temp"])
async def test_one_of_the_results(proxy: TestClient, workers: Workers, kind: str) -> None:
    """Made by whoever: it bears no mark, which nobody could be shown or copied by."""
    put(workers[1], f"{kind}/a..png")
    ids = [await post(proxy, loads(f"a..png [{kind}]")) for _ in range(4)]
    await ended(proxy, *ids)
    assert workers[1].submitted == ids


async def test_a_result_that_both_have_is_that_of_who_made_it_last(
    proxy: TestClient, workers: Workers
) -> None:
    """Its bytes cannot be compared: the record tells whose is meant."""
    for worker in workers:
        put(worker, "output/a..png")
    made = FileName(filename="a..png")
    proxy.app[GATEWAY].files.made(made, instance_of(proxy, workers[1]))
    ids = [await post(proxy, loads("a..png [output]")) for _ in range(4)]
    await ended(proxy, *ids)
    assert workers[1].submitted == ids


def test_a_result_that_nobody_is_shown_bears_no_mark() -> None:
    """No copy can be put under a marked path; under its own name it is used where it is."""
    output = {"images": [{"filename": "a.._1_.png", "subfolder": "", "type": "output"}]}
    assert prefix_outputs(output, "2") == output


@pytest.mark.long
@pytest.mark.parametrize("holder", [0, 1])
async def test_in_a_folder_that_no_list_shows(
    proxy: TestClient, workers: Workers, holder: int
) -> None:
    """Who has it is told by its own validation: the other's refusal is not the last word."""
    put(workers[holder], "input/deep/a..png")
    ids = [await post(proxy, loads("deep/a..png")) for _ in range(4)]
    await ended(proxy, *ids)
    assert workers[holder].submitted == ids


@pytest.mark.parametrize("name", ["a..png", "deep/a..png", "a..png [output]"])
async def test_a_file_that_nobody_has_is_refused_by_comfyui(
    proxy: TestClient, workers: Workers, name: str
) -> None:
    """With its own answer, once."""
    body = {"prompt": loads(name)}
    async with (
        ClientSession() as session,
        session.post(f"{workers[0].url}/prompt", json=body) as direct,
        proxy.post("/prompt", json=body) as answer,
    ):
        assert (answer.status, await answer.json()) == (400, await direct.json())


@pytest.mark.long
@pytest.mark.parametrize("fields", [{}, {"subfolder": "deep"}])
async def test_an_upload_is_usable_wherever_a_prompt_lands(
    proxy: TestClient, workers: Workers, fields: dict[str, str]
) -> None:
    """Its bytes are here: each instance says by its answer that it has taken them."""
    told = await upload(proxy, "a..png", "red", **fields)
    assert told == {"name": "a..png", "subfolder": fields.get("subfolder", ""), "type": "input"}
    name = "/".join(filter(None, (told["subfolder"], told["name"])))
    for colour in ("red", "blue"):
        await upload(proxy, "a..png", colour, overwrite="true", **fields)
        await ended(proxy, *[await post(proxy, loads(name)) for _ in range(4)])
        stored = [(worker.folders.base / "input" / name).read_bytes() for worker in workers]
        assert stored == [png(colour)] * 2
    assert sorted(len(worker.submitted) for worker in workers) == [4, 4]


async def test_an_upload_is_put_there_once(proxy: TestClient, workers: Workers) -> None:
    """A prompt may be reading it: the same bytes are not written over it again."""
    await upload(proxy, "a..png", "red")
    await ended(proxy, *[await post(proxy, loads("a..png")) for _ in range(4)])
    assert [worker.uploads for worker in workers] == [["input/a..png"]] * 2


async def test_a_prompt_does_not_move_to_where_the_file_is_not(
    proxy: TestClient, workers: Workers
) -> None:
    """An idle instance takes the other prompts and leaves this one."""
    put(workers[0], "input/a..png")
    blocker, *_ = await pile_up(proxy, workers, 1)
    mine = await post(proxy, loads("a..png"))
    others = [await post(proxy, graph(0.01)) for _ in range(3)]
    await show(proxy, workers[1])
    await ended(proxy, *others)
    assert mine not in workers[1].submitted
    async with proxy.post("/interrupt", json={"prompt_id": blocker}) as answer:
        assert answer.status == 200
    await ended(proxy, mine)
    await until(lambda: not moves(proxy.app[GATEWAY]))


async def test_view_refuses_it_here_as_there(proxy: TestClient, workers: Workers) -> None:
    """400, as ComfyUI says."""
    put(workers[0], "input/a..png")
    async with proxy.get("/view?filename=a..png&type=input") as answer:
        assert answer.status == 400
    assert "a..png" in await get(proxy, "/internal/files/input")


async def test_where_all_share_the_directory_it_is_anywhere(
    workers: Workers, start_proxy: Callable[..., Any]
) -> None:
    """Nothing is asked for or kept away."""
    for worker in workers:
        put(worker, "input/a..png")
    http = await start_proxy(*workers, shared_storage=FILE_TYPES)
    await ended(http, *[await post(http, loads("a..png")) for _ in range(4)])
    assert sorted(len(worker.submitted) for worker in workers) == [2, 2]
