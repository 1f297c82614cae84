"""The real nginx with the recipe of ``config/nginx``, before a proxy."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from certificates import certificate
from shipped_files import CONFIG

from comfy_proxy.tls import client_context

RECIPE = CONFIG / "nginx" / "comfy-proxy.conf"
PATIENCE_S = 20.0
"""Before an nginx that does not come up fails the test."""
_AROUND = """
{user}worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  include {folder}/comfy-proxy.conf;
}}
"""


def written(folder: Path, port: int, proxy_port: int) -> Path:
    """The recipe, what is yours changed as it says, and what Debian has around it; its path."""
    cert, key = certificate(folder, "comfy")
    text = RECIPE.read_text(encoding="utf-8")
    for theirs, ours in {
        "server 127.0.0.1:3000;": f"server 127.0.0.1:{proxy_port};",
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "comfy.example": "localhost",
        "/etc/nginx/comfy.pem": str(cert),
        "/etc/nginx/comfy.key": str(key),
        "/var/cache/nginx/comfy-proxy": str(folder / "cache"),
    }.items():
        assert text.count(theirs) == 1, theirs
        text = text.replace(theirs, ours)
    (folder / "comfy-proxy.conf").write_text(text, encoding="utf-8")
    user = "user root;\n" if os.getuid() == 0 else ""
    path = folder / "nginx.conf"
    path.write_text(_AROUND.format(folder=folder, user=user), encoding="utf-8")
    return path


@asynccontextmanager
async def nginx(folder: Path, proxy_port: int) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of an nginx before the proxy at that port. Skips the test where there is none."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = written(folder, port, proxy_port)
    process = await asyncio.create_subprocess_exec(
        *(program, "-c", str(path), "-p", str(folder), "-e", str(folder / "error.log"))
    )
    trusted = aiohttp.TCPConnector(ssl=client_context(folder / "comfy.pem"))
    client = aiohttp.ClientSession(
        f"https://localhost:{port}", connector=trusted, auto_decompress=False
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not await _is_up(port):
                assert process.returncode is None, (folder / "error.log").read_text()
                await asyncio.sleep(0.02)
        yield client
    finally:
        await client.close()
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _is_up(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True
