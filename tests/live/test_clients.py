"""Programs of others before two real ComfyUI servers, with nothing changed but the address.

`scripts/live-comfyui` installs them: ComfyUI's own `script_examples`, comfy-cli, comfy-sdk (alone
and through comfy-api-proxy) and, where there is npm, @comfyorg/sdk. Each runs six times in a row,
by turns on the one and the other server.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from client_programs import (
    Graph,
    colour_enlarged,
    decoded,
    downloaded,
    enlarged,
    environment,
    free_port,
    history,
    one_colour,
    over_the_socket,
    picture_from,
    run,
    run_with,
    service,
    use_only,
)
from sdk_programs import CLIENTS, RUNS, original, run_sdk_jobs, turns

Client = TestClient[web.Request, web.Application]


@pytest.fixture(scope="session")
def programs() -> Path:
    """The directory with the installed clients and their Python."""
    directory = os.environ.get("COMFY_LIVE_CLIENTS")
    if not directory:
        pytest.skip("COMFY_LIVE_CLIENTS is not set: run scripts/live-comfyui")
    return Path(directory)


@pytest.fixture
async def address(live_urls: tuple[str, str], start_proxy: Any) -> str:
    """``host:port`` of the proxy before both servers."""
    client: Client = await start_proxy(*live_urls)
    return f"{client.host}:{client.port}"


def colours() -> list[int]:
    """As many as there are runs, unlike those of any earlier test."""
    first = secrets.randbelow(1 << 23)
    return list(range(first, first + RUNS))


async def assert_ran_by_turns(live_urls: tuple[str, str], values: list[Any]) -> None:
    """Each value is in exactly one prompt, of the server whose turn it was."""
    seen = [[await run_with(url, value) for value in values] for url in live_urls]
    counts = [(len(one), len(two)) for one, two in zip(*seen, strict=True)]
    assert counts == [(1, 0) if number == 1 else (0, 1) for number in turns()]


def example(name: str, address: str, graph: Graph, directory: Path) -> Path:
    """A copy of that script of the installed ComfyUI with our address and our graph in it."""
    text = Path(os.environ["COMFY_LIVE_EXAMPLES"], name).read_text()
    text, addresses = re.subn(r"127\.0\.0\.1:8188", address, text)
    text, graphs = re.subn(
        r'(?<=prompt_text = """).*?(?=""")', lambda _: json.dumps(graph), text, flags=re.DOTALL
    )
    assert (addresses, graphs) == (1, 1)
    script = directory / name
    script.write_text(text)
    return script


async def finished(address: str, colour: int) -> dict[str, Any]:
    """The history of the prompt with that colour, as soon as the proxy has it."""
    async with asyncio.timeout(60):
        while True:
            if ids := await run_with(f"http://{address}", colour):
                break
            await asyncio.sleep(0.05)
    entry: dict[str, Any] = (await history(f"http://{address}"))[ids[0]]
    return entry


async def test_the_basic_example_queues_a_prompt(
    address: str, live_urls: tuple[str, str], programs: Path, tmp_path: Path
) -> None:
    """``basic_api_example.py`` posts and leaves; history and /view have the picture afterwards."""
    wanted = colours()
    for number, colour in zip(turns(), wanted, strict=True):
        await use_only(f"http://{address}", number)
        script = example("basic_api_example.py", address, one_colour(colour), tmp_path)
        await run(programs / "python", script, env=environment(tmp_path))
        entry = await finished(address, colour)
        (picture,) = entry["outputs"]["9"]["images"]
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{address}/view", params=picture) as response,
        ):
            assert np.array_equal(decoded(await response.read()), colour_enlarged(colour))
    await assert_ran_by_turns(live_urls, wanted)


@pytest.mark.parametrize(
    ("name", "graph", "node_id"),
    [
        ("websockets_api_example.py", one_colour, "9"),
        ("websockets_api_example_ws_images.py", over_the_socket, "save_image_websocket_node"),
    ],
)
async def test_the_websocket_examples_end_with_their_pictures(
    address: str,
    live_urls: tuple[str, str],
    programs: Path,
    tmp_path: Path,
    name: str,
    graph: Any,
    node_id: str,
) -> None:
    """They wait on the socket for their prompt's end and have its picture: by file or by frame."""
    wanted = colours()
    for number, colour in zip(turns(), wanted, strict=True):
        await use_only(f"http://{address}", number)
        script = example(name, address, graph(colour), tmp_path)
        runner = CLIENTS / "run_example.py"
        await run(programs / "python", runner, script, tmp_path, env=environment(tmp_path))
        picture = downloaded(tmp_path / f"{node_id}-0.png")
        assert np.array_equal(picture, colour_enlarged(colour))
    await assert_ran_by_turns(live_urls, wanted)


async def test_comfy_cli_uploads_runs_and_downloads(
    address: str, live_urls: tuple[str, str], programs: Path, tmp_path: Path
) -> None:
    """``comfy upload``, ``run`` (also without waiting: ``jobs wait`` follows), ``download``."""
    env = environment(tmp_path) | {"COMFY_LOCAL_URL": f"http://{address}"}
    host, _, port = address.partition(":")
    where = ["--host", host, "--port", port]
    comfy = [programs / "comfy", "--skip-prompt", "--json"]
    workflow = tmp_path / "workflow.json"
    names = []
    for at, number in enumerate(turns()):
        await use_only(f"http://{address}", number)
        picture = original(tmp_path)
        (uploaded,) = answer(await run(*comfy, "upload", picture.file, *where, env=env))["uploads"]
        names.append(uploaded["cloud_name"])
        workflow.write_text(json.dumps(picture_from(uploaded["cloud_name"])))
        how = "--wait" if at // 2 % 2 else "--no-watch"
        ran = answer(await run(*comfy, "run", "--workflow", workflow, *where, how, env=env))
        if how == "--no-watch":
            await run(*comfy, "jobs", "wait", ran["prompt_id"], *where, env=env)
        out = ["--out-dir", tmp_path / "downloads"]
        (file,) = answer(await run(*comfy, "download", ran["prompt_id"], *out, env=env))["files"]
        assert np.array_equal(downloaded(file["path"]), enlarged(picture.pixels))
    await assert_ran_by_turns(live_urls, names)


def answer(printed: str) -> dict[str, Any]:
    """The data of comfy-cli's last line."""
    envelope = json.loads(printed.splitlines()[-1])
    assert envelope["ok"], envelope
    data: dict[str, Any] = envelope["data"]
    return data


async def test_comfy_sdk_runs_jobs(
    address: str, live_urls: tuple[str, str], programs: Path, tmp_path: Path
) -> None:
    """Comfy's Python SDK speaks to the proxy itself; its events end with the job's end."""
    command = [programs / "python", CLIENTS / "run_sdk.py"]
    jobs = await run_sdk_jobs(command, f"http://{address}", live_urls, tmp_path)
    assert all(job["told"][-1] == "succeeded" for job in jobs)


async def test_the_typescript_sdk_runs_jobs(
    address: str, live_urls: tuple[str, str], tmp_path: Path
) -> None:
    """So does Comfy's TypeScript SDK."""
    modules, node = os.environ.get("COMFY_LIVE_NODE_MODULES"), shutil.which("node")
    if not modules or node is None:
        pytest.skip("COMFY_LIVE_NODE_MODULES is not set: scripts/live-comfyui sets it with npm")
    (tmp_path / "node_modules").symlink_to(modules)
    script = Path(shutil.copy(CLIENTS / "run_sdk.mjs", tmp_path))
    jobs = await run_sdk_jobs([node, script], f"http://{address}", live_urls, tmp_path)
    assert all(job["told"][-1] == "succeeded" for job in jobs)


async def test_comfy_sdk_runs_jobs_through_comfy_api_proxy(
    address: str, live_urls: tuple[str, str], programs: Path, tmp_path: Path
) -> None:
    """With comfy-api-proxy in between too, as before the proxy spoke its API."""
    port = free_port()
    base_url = f"http://127.0.0.1:{port}"
    proxy = [programs / "comfy-api-proxy", "--comfyui", f"http://{address}", "--port", str(port)]
    command = [programs / "python", CLIENTS / "run_sdk.py"]
    async with service(*proxy, url=f"{base_url}/api/v2/health", env=environment(tmp_path)):
        # Its events may end with "expired": comfy-api-proxy asks /history first and /queue
        # then, and a prompt that ends in between is in neither (direct: 3 of 80 measured).
        jobs = await run_sdk_jobs(command, base_url, live_urls, tmp_path, f"http://{address}")
    assert all(job["told"] for job in jobs)
