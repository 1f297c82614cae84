"""ComfyUI's own address with the proxy at it: a stand-in for ComfyUI in a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from certificates import certificate
from kept_ports import kept_port
from prompt_client import graph
from serving import PATIENCE_S

from comfy_proxy.embedded.worker import EmbeddedWorker

pytestmark = pytest.mark.long

Http = aiohttp.ClientSession


async def asked(http: Http, url: str, **options: Any) -> Any:
    async with http.get(url, **options) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def is_plain(http: Http, url: str) -> bool:
    """ComfyUI answers itself: it has no /health."""
    async with http.get(f"{url}/system_stats") as answer:
        assert answer.status == 200
    async with http.get(f"{url}/health") as answer:
        return answer.status == 404


async def back(http: Http, url: str) -> Any:
    """/health of a proxy that is started again."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await asked(http, f"{url}/health/live")
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.02)


async def ends(socket: aiohttp.ClientWebSocketResponse, prompts: set[str]) -> None:
    """Return when the socket has told the end of each."""
    async with asyncio.timeout(PATIENCE_S):
        while prompts:
            frame = await socket.receive_json()
            if frame["type"] == "execution_success":
                prompts.discard(frame["data"]["prompt_id"])


def is_there(pid: int) -> bool:
    """A process that has ended, and whose parent has not heard of it yet, is there too."""
    return Path(f"/proc/{pid}").exists()


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def gone(pid: int) -> None:
    """Return when the process has ended: it is no child of ours, so nothing tells us."""
    async with asyncio.timeout(PATIENCE_S):
        while runs(pid):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_its_address_serves_all_instances(
    start_comfyui: Any, workers: tuple[EmbeddedWorker, EmbeddedWorker], http: Http
) -> None:
    """Its own GPU included, over HTTP and its WebSocket; nothing of a client changes."""
    other = workers[1]
    comfyui = await start_comfyui(COMFYUI_HOST_2=other.host)
    assert await comfyui.up() == f"http 127.0.0.1 {comfyui.port}"
    await comfyui.said(f"To see the GUI go to: http://127.0.0.1:{comfyui.port}")
    ids = []
    async with http.ws_connect(f"{comfyui.url}/ws?clientId=me") as socket:
        for _ in range(6):
            body = {"prompt": graph(0.1), "client_id": "me"}
            async with http.post(f"{comfyui.url}/prompt", json=body) as answer:
                ids.append((await answer.json())["prompt_id"])
        await ends(socket, set(ids))
    assert 0 < len(other.submitted) < 6
    history = await asked(http, f"{comfyui.url}/history")
    assert set(history) == set(ids)
    for entry in history.values():
        (picture,) = entry["outputs"]["3"]["images"]
        async with http.get(f"{comfyui.url}/view", params=picture) as answer:
            assert answer.status == 200
    assert await comfyui.end() == 0


async def test_the_file_in_the_folder_names_the_others(
    start_comfyui: Any, workers: tuple[EmbeddedWorker, EmbeddedWorker], http: Http
) -> None:
    comfyui = await start_comfyui(
        toml=f'comfyui_host_2 = "{workers[0].host}"\ncomfyui_host_5 = "{workers[1].host}"\n'
        'comfyui_name_5 = "far"\n'
    )
    await comfyui.up()
    health = await asked(http, f"{comfyui.url}/health")
    instances = health["comfyui_instances"]["instances"]
    assert [(one["host"], one["name"]) for one in instances[1:]] == [
        (workers[0].host, None),
        (workers[1].host, "far"),
    ]
    assert instances[0]["host"].startswith("127.0.0.1:")
    assert health["status"] == "healthy"


async def test_a_proxy_that_dies_is_started_again(
    start_comfyui: Any, workers: tuple[EmbeddedWorker, EmbeddedWorker], http: Http
) -> None:
    """And knows its prompts of before."""
    comfyui = await start_comfyui(COMFYUI_HOST_2=workers[1].host)
    await comfyui.up()
    async with http.ws_connect(f"{comfyui.url}/ws?clientId=me") as socket:
        body = {"prompt": graph(), "client_id": "me"}
        async with http.post(f"{comfyui.url}/prompt", json=body) as answer:
            prompt = (await answer.json())["prompt_id"]
        await ends(socket, {prompt})
    os.kill(await comfyui.proxy_pid(), signal.SIGKILL)
    await comfyui.said("the proxy has ended (it ended with exit code -9) and is started again.")
    await back(http, comfyui.url)
    assert prompt in await asked(http, f"{comfyui.url}/history")
    assert await comfyui.end() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_the_proxy_ends_with_comfyui(
    start_comfyui: Any, workers: tuple[EmbeddedWorker, EmbeddedWorker], number: signal.Signals
) -> None:
    """However that ends."""
    comfyui = await start_comfyui(COMFYUI_HOST_2=workers[1].host)
    await comfyui.up()
    pid = await comfyui.proxy_pid()
    assert await comfyui.end(number) == (0 if number == signal.SIGINT else -number)
    if number == signal.SIGINT:  # it has waited for that
        assert not is_there(pid)
        told = "\n".join(comfyui.lines)
        assert "Traceback" not in told, told
        assert "destroyed" not in told, told
    await gone(pid)


async def test_a_forked_copy_does_not_keep_the_proxy(
    start_comfyui: Any, workers: tuple[EmbeddedWorker, EmbeddedWorker], http: Http
) -> None:
    """It inherits the pipe by which the proxy hears of ComfyUI's end."""
    comfyui = await start_comfyui(COMFYUI_HOST_2=workers[1].host)
    await comfyui.up()
    proxy = await comfyui.proxy_pid()
    copy = await asked(http, f"http://{await comfyui.inner()}/stand-in/fork")
    try:
        await comfyui.end(signal.SIGKILL)
        await gone(proxy)
        assert runs(copy)
    finally:
        os.kill(copy, signal.SIGKILL)


async def test_a_reboot_leaves_one_proxy(
    start_comfyui: Any, workers: tuple[EmbeddedWorker, EmbeddedWorker], http: Http
) -> None:
    """ComfyUI-Manager has ComfyUI replace itself: the old proxy ends, the new one has the port."""
    comfyui = await start_comfyui(COMFYUI_HOST_2=workers[1].host)
    await comfyui.up()
    first, seen = await comfyui.proxy_pid(), len(comfyui.lines)
    address = await comfyui.inner()
    with pytest.raises(aiohttp.ClientError):
        await http.get(f"http://{address}/stand-in/reboot")
    assert await comfyui.up(after=seen) == f"http 127.0.0.1 {comfyui.port}"
    second = await comfyui.proxy_pid(after=seen)
    assert second != first
    assert not is_there(first)  # not even as a zombie
    health = await asked(http, f"{comfyui.url}/health")
    assert health["comfyui_instances"]["healthy"] == 2
    assert health["comfyui_instances"]["instances"][0]["host"] == address
    assert await comfyui.end() == 0


@pytest.mark.parametrize(
    ("toml", "environ", "reason"),
    [
        (None, {}, "no other instance is configured"),
        (None, {"COMFYUI_HOST_1": "a:1", "COMFYUI_HOST_2": "a:2"}, "COMFYUI_HOST_1 is this"),
        (None, {"COMFYUI_HOST_2": "ftp://a"}, "COMFYUI_HOST_2: 'ftp://a': the scheme must be"),
        ('comfyui_host_2 = "a:1"\nprot = 7\n', {}, "unknown setting 'prot'"),
        ('comfyui_host_2 = "a:1\n', {}, "comfy_proxy.toml: "),
        (None, {"COMFYUI_HOST_2": "a:1", "COMFY_PROXY_PYTHON": "/none/python"}, "cannot be run"),
        (None, {"COMFYUI_HOST_2": "a:1", "COMFY_PROXY_PYTHON": "/bin/false"}, "exit code 1"),
        (None, {"COMFYUI_HOST_2": "a:1", "PYTHONPATH": "", "COMFY_PROXY_PYTHON": "bare"},
         "comfyui-proxy is not installed in "),
    ],
)  # fmt: skip
async def test_comfyui_starts_without_the_proxy_and_says_why(
    start_comfyui: Any,
    http: Http,
    tmp_path: Path,
    toml: str | None,
    environ: dict[str, str],
    reason: str,
) -> None:
    """Whatever is wrong, in one line."""
    if environ.get("COMFY_PROXY_PYTHON") == "bare":
        bare = tmp_path / "python"
        bare.write_text('#!/bin/sh\necho "$0: No module named comfy_proxy" >&2\nexit 1\n')
        bare.chmod(0o755)
        environ = {name: text for name, text in environ.items() if name != "PYTHONPATH"}
        environ["COMFY_PROXY_PYTHON"] = str(bare)
    comfyui = await start_comfyui(toml=toml, **environ)
    assert await comfyui.up() == f"http 127.0.0.1 {comfyui.port}"
    told = [line for line in comfyui.lines if line.startswith("comfy_proxy: ")]
    assert len(told) == 1
    assert told[0].startswith("comfy_proxy: ComfyUI listens without the proxy: ")
    assert reason in told[0]
    assert await is_plain(http, comfyui.url)
    assert await comfyui.end() == 0


async def test_the_second_of_one_installation_has_no_proxy_of_its_own(
    start_comfyui: Any, http: Http
) -> None:
    """Both load the same folder: the one that is named in it listens itself."""
    with kept_port() as port:
        comfyui = await start_comfyui(toml=f'comfyui_host_2 = "localhost:{port}"\n', port=port)
        await comfyui.said(f"COMFYUI_HOST_2 (localhost:{port}) is this ComfyUI itself")
        await comfyui.up()
        assert await is_plain(http, comfyui.url)


async def test_a_proxy_that_cannot_be_kept_leaves_its_address_to_comfyui(
    start_comfyui: Any, workers: tuple[EmbeddedWorker, EmbeddedWorker], http: Http
) -> None:
    """It dies, and cannot be started any more: clients are served without it."""
    comfyui = await start_comfyui(toml=f'comfyui_host_2 = "{workers[1].host}"\n')
    await comfyui.up()
    pid = await comfyui.proxy_pid()
    (comfyui.folder / "comfy_proxy.toml").write_text("prot = 7\n")
    os.kill(pid, signal.SIGKILL)
    await comfyui.said("ComfyUI listens without the proxy: ")
    assert await is_plain(http, comfyui.url)
    assert await comfyui.end() == 0


async def test_it_speaks_https_if_comfyui_does(
    start_comfyui: Any,
    workers: tuple[EmbeddedWorker, EmbeddedWorker],
    http: Http,
    tmp_path: Path,
) -> None:
    """With ComfyUI's certificate; ComfyUI behind needs none on the loopback."""
    cert, key = certificate(tmp_path, "comfyui")
    options = ("--tls-keyfile", str(key), "--tls-certfile", str(cert))
    comfyui = await start_comfyui(*options, COMFYUI_HOST_2=workers[1].host)
    assert await comfyui.up() == f"https 127.0.0.1 {comfyui.port}"
    url = comfyui.url.replace("http:", "https:")
    trusted = ssl.create_default_context(cafile=cert)
    health = await asked(http, f"{url}/health", ssl=trusted)
    assert health["comfyui_instances"]["healthy"] == 2
    assert await comfyui.end() == 0


async def test_several_addresses_and_the_warning(
    start_comfyui: Any, workers: tuple[EmbeddedWorker, EmbeddedWorker], http: Http
) -> None:
    """The proxy listens at each; that everybody may come is a line in ComfyUI's log."""
    comfyui = await start_comfyui("--listen", "0.0.0.0,::1", COMFYUI_HOST_2=workers[1].host)
    assert await comfyui.up() == f"http 0.0.0.0 {comfyui.port}"
    await comfyui.said("comfy_proxy: Listening on 0.0.0.0,::1 without API_KEYS")
    await comfyui.said(f"To see the GUI go to: http://[::1]:{comfyui.port}")
    for url in (comfyui.url, f"http://[::1]:{comfyui.port}"):
        assert (await asked(http, f"{url}/health"))["comfyui_instances"]["healthy"] == 2
    assert await comfyui.end() == 0
