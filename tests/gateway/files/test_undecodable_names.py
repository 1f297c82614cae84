"""Names of files that are no UTF-8: ComfyUI keeps them, and prompts can use them."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from files_front import picture
from prompts_front import Workers, ended, get, graph, post

from comfy_proxy.gateway.files.instance_prefix import prefix_outputs

NAME = "\udcffcaf\udce9.png"
"""As Python has the bytes ``ff 63 61 66 e9`` of a name."""
RED, BLUE = picture("red"), picture("blue")


def loads(name: str) -> Any:
    return {**graph(0.01), "1": {"class_type": "LoadImage", "inputs": {"image": name}}}


async def upload(
    http: TestClient, content: bytes = RED, *, route: str = "image", **fields: str
) -> Any:
    parts = [f'name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()]
    parts.append(b'name="image"; filename="\xffcaf\xe9.png"\r\n\r\n' + content)
    body = b"".join(b"--x\r\nContent-Disposition: form-data; %s\r\n" % part for part in parts)
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    async with http.post(f"/upload/{route}", data=body + b"--x--\r\n", headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


def stored(workers: Workers, path: str) -> list[bytes | None]:
    files = [worker.folders.base / path for worker in workers]
    return [file.read_bytes() if file.is_file() else None for file in files]


@pytest.mark.parametrize("subfolder", ["", "täg/b"])
async def test_an_upload_is_on_both_and_prompts_find_it(
    proxy: TestClient, workers: Workers, subfolder: str
) -> None:
    fields = {"subfolder": subfolder} if subfolder else {}
    told = await upload(proxy, **fields)
    assert told == {"name": NAME, "subfolder": subfolder, "type": "input"}
    path = f"{subfolder}/{NAME}".lstrip("/")
    assert stored(workers, f"input/{path}") == [RED, RED]
    await ended(proxy, *[await post(proxy, loads(path)) for _ in range(4)])
    assert sorted(len(worker.submitted) for worker in workers) == [2, 2]


async def test_newer_bytes_go_to_both(proxy: TestClient, workers: Workers) -> None:
    await upload(proxy)
    await upload(proxy, BLUE, overwrite="true")
    assert stored(workers, f"input/{NAME}") == [BLUE, BLUE]


async def test_one_that_lies_at_one_instance_is_used_there(
    proxy: TestClient, workers: Workers
) -> None:
    """The name without those bytes is another file, which is not taken for it."""
    for name in (NAME, "caf.png"):
        (workers[1].folders.base / "input" / name).write_bytes(RED)
    ids = [await post(proxy, loads(NAME)) for _ in range(3)]
    await ended(proxy, *ids)
    assert workers[1].submitted == ids
    assert stored(workers, "input/caf.png") == [None, RED]
    assert NAME in await get(proxy, "/internal/files/input")


async def test_a_mask_of_that_name_is_used_where_it_was_made(
    proxy: TestClient, workers: Workers
) -> None:
    """No URL has its name, so nobody can read it back to copy it."""
    (workers[0].folders.base / "input" / "o.png").write_bytes(RED)
    original = '{"filename":"o.png","type":"input"}'
    told = await upload(proxy, picture("white", "RGBA"), route="mask", original_ref=original)
    assert told["name"] == NAME
    (holder,) = [one for one in workers if (one.folders.base / "input" / NAME).is_file()]
    ids = [await post(proxy, loads(NAME)) for _ in range(3)]
    await ended(proxy, *ids)
    assert holder.submitted == ids


def test_a_result_of_that_name_bears_no_mark() -> None:
    """Nobody could be given a copy of it."""
    output = {"images": [{"filename": NAME, "subfolder": "", "type": "output"}]}
    assert prefix_outputs(output, "2") == output
