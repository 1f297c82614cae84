"""``serve --supervised``: a program that starts the proxy hears of it, and ends it by its own end;
and several addresses in HOST."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from kept_ports import kept_port
from serving import PATIENCE_S

from comfy_proxy.addresses import are_loopback
from comfy_proxy.cli.proxy_address import own_url
from comfy_proxy.security import start_warnings
from comfy_proxy.settings import load_settings


@asynccontextmanager
async def supervised(logs: Path, **environ: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command as a child with pipes; its instances are at a port where nobody listens."""
    with kept_port() as port, kept_port() as nobody:
        own = {
            "PORT": str(port),
            "LOG_DIRECTORY": str(logs),
            "COMFYUI_HOST_1": f"localhost:{nobody}",
        }
        kept = {name: text for name, text in os.environ.items() if not name.startswith("COMFYUI_")}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "comfy_proxy", "serve", "--supervised"),
            env=kept | own | environ,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(PATIENCE_S):
                yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            process.stdin.close()


@pytest.mark.long
async def test_it_says_where_it_listens_and_ends_with_standard_input(tmp_path: Path) -> None:
    """At every address of HOST; the end is an orderly one."""
    async with supervised(tmp_path, HOST="127.0.0.1, 127.0.0.2") as process:
        told = json.loads(await process.stdout.readline())
        assert told["pid"] == process.pid
        assert [url.split("//")[1].split(":")[0] for url in told["listening"]] == [
            "127.0.0.1",
            "127.0.0.2",
        ]
        async with aiohttp.ClientSession() as http:
            for url in told["listening"]:
                async with http.get(f"{url}/health/live") as answer:
                    assert answer.status == 200
        process.stdin.close()
        assert await process.wait() == 0
        assert await process.stdout.read() == b""


@pytest.mark.long
async def test_a_parent_that_ends_before_it_listens_ends_it_too(tmp_path: Path) -> None:
    async with supervised(tmp_path) as process:
        process.stdin.close()
        assert await process.wait() == 0


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1,::1", True),
        ("localhost, 127.0.0.2", True),
        ("127.0.0.1,0.0.0.0", False),
        ("::", False),
        ("", False),
        (",", False),
    ],
)
def test_several_addresses_are_loopback_if_each_is(hosts: str, expected: bool) -> None:
    """Else others may come, and the warning without keys is due."""
    assert are_loopback(hosts) is expected
    warned = any("API_KEYS" in one for one in start_warnings(load_settings({"HOST": hosts}), {}))
    assert warned is not (expected or hosts == "")  # an empty value counts as not set


def test_the_commands_speak_to_the_first_address() -> None:
    assert str(own_url(load_settings({"HOST": "0.0.0.0,::"}))) == "http://127.0.0.1:3000"
    assert str(own_url(load_settings({"HOST": "::1,127.0.0.1"}))) == "http://[::1]:3000"
