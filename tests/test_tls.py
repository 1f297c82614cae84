"""https for clients, a renewed certificate, and instances that a CA of one's own has signed."""

from __future__ import annotations

import asyncio
import re
import signal
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from certificates import certificate
from serving import Served, serving

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.errors import SettingsError
from comfy_proxy.settings import load_settings
from comfy_proxy.tls import client_context, server_context

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Any]


def problems(**environ: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ)
    return caught.value.problems


async def shown(served: Served, trusted: ssl.SSLContext) -> str:
    """Who the certificate says that the proxy is, of a new connection."""
    _, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=trusted)
    subject = writer.get_extra_info("peercert")["subject"]
    writer.close()
    return str(dict(pair for part in subject for pair in part)["commonName"])


@pytest.mark.long
async def test_clients_are_served_by_https(workers: Pair, tmp_path: Path) -> None:
    """Pages, sockets and the command; the browser's cookie is for https alone."""
    cert, key = certificate(tmp_path, "proxy")
    word = "a key of sixteen characters"
    environ = {"TLS_CERT": str(cert), "TLS_KEY": str(key), "API_KEYS": word}
    hosts = [worker.host for worker in workers]
    async with serving(*hosts, logs=tmp_path / "logs", trusted=cert, **environ) as served:
        assert served.url.startswith("https://")
        headers = {"X-API-Key": word}
        assert await served.get("/queue", **headers)
        async with served.http.ws_connect(f"{served.url}/ws", headers=headers) as ws:
            assert (await ws.receive_json())["type"] == "status"
        opened = f"{served.url}/dashboard?token={word}"
        async with served.http.get(opened, allow_redirects=False) as answer:
            assert "Secure" in answer.headers["Set-Cookie"]
        async with served.http.post(
            f"{served.url}/api/remove-background", data=b"x", headers=headers
        ) as answer:
            assert answer.status in (400, 415)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "comfy_proxy", "drain", "1"),
            env={**environ, "PORT": str(served.port)},
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
        assert (process.returncode, b"may be restarted" in said) == (0, True)
        for trusting, code in (
            ({**environ, "PORT": str(served.port)}, 0),
            ({"COMFY_PROXY_URL": served.url, "SSL_CERT_FILE": str(cert)}, 0),
            ({"COMFY_PROXY_URL": served.url}, 1),
        ):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "comfy_proxy", "jobs"),
                env={"COMFY_PROXY_API_KEY": word, **trusting},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            said, errors = await process.communicate()
            assert process.returncode == code, errors
            assert (b"certificate" in errors, len(errors.splitlines())) == (code == 1, code)
        with pytest.raises(aiohttp.ClientError):
            await served.http.get(served.url.replace("https", "http"))
        assert await served.end() == 0
    assert re.search(r"listening on https://", served.said)


@pytest.mark.long
async def test_a_renewed_certificate_is_read_at_sighup(workers: Pair, tmp_path: Path) -> None:
    """New connections get it; one that cannot be used changes nothing, and is told."""
    cert, key = certificate(tmp_path, "old")
    environ = {"TLS_CERT": str(cert), "TLS_KEY": str(key)}
    hosts = [worker.host for worker in workers]

    async def read_again(served: Served) -> str:
        before = len(served.lines())
        served.process.send_signal(signal.SIGHUP)
        line = await served.logged(
            lambda line: line["message"].startswith("the configuration"), after=before
        )
        return str(line["message"])

    async with serving(*hosts, logs=tmp_path / "logs", trusted=cert, **environ) as served:
        old = client_context(cert)
        assert await shown(served, old) == "old"
        new_cert, new_key = certificate(tmp_path, "new")
        cert.write_bytes(new_cert.read_bytes())
        assert "TLS_CERT" in await read_again(served)  # the key is the old one's
        assert await shown(served, old) == "old"
        key.write_bytes(new_key.read_bytes())
        assert "as it was" not in await read_again(served)
        assert await shown(served, client_context(new_cert)) == "new"


def test_what_cannot_be_used_is_told_in_a_line(tmp_path: Path) -> None:
    """At the start, with exit code 2; nobody is asked for a password."""
    cert, key = certificate(tmp_path, "proxy")
    other_key = certificate(tmp_path, "other")[1]
    locked = certificate(tmp_path, "locked", "-passout", "pass:secret")
    for environ in (
        {"TLS_CERT": str(tmp_path / "missing.pem"), "TLS_KEY": str(key)},
        {"TLS_CERT": str(cert), "TLS_KEY": str(other_key)},
        {"TLS_CERT": str(cert)},
        {"TLS_CERT": str(key), "TLS_KEY": str(key)},
        {"TLS_CERT": str(locked[0]), "TLS_KEY": str(locked[1])},
    ):
        (told,) = problems(**environ)
        assert told.startswith("TLS_CERT: "), told
        assert len(told.splitlines()) == 1
    (told,) = problems(TLS_KEY=str(key))
    assert told.startswith("TLS_KEY: ")
    (told,) = problems(COMFYUI_CA_FILE=str(key))
    assert told.startswith("COMFYUI_CA_FILE: ")


def test_certificate_and_key_may_stand_in_one_file(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "proxy")
    both = tmp_path / "both.pem"
    both.write_bytes(cert.read_bytes() + key.read_bytes())
    assert load_settings({"TLS_CERT": str(both)}).tls_cert == both


async def test_an_instance_may_have_a_certificate_of_ones_own_ca(
    start_proxy: Start, tmp_path: Path
) -> None:
    """With COMFYUI_CA_FILE requests and sockets reach it; without it is told why they do not."""
    cert, key = certificate(tmp_path, "gpu")

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/ws_of_pack":
            ws = web.WebSocketResponse()
            await ws.prepare(request)
            await ws.send_str("hello")
            return ws
        return web.json_response({"system": {}})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    upstream = TestServer(app)
    await upstream.start_server(ssl=server_context(cert, key))
    try:
        url = f"https://127.0.0.1:{upstream.port}"
        trusting = await start_proxy(url, comfyui_ca_file=cert)
        async with trusting.get("/system_stats") as response:
            assert response.status == 200
        async with trusting.ws_connect("/ws_of_pack") as ws:
            assert await ws.receive_str() == "hello"
        strict = await start_proxy(url)
        async with strict.get("/system_stats") as response:
            assert response.status in (502, 503)
        async with strict.get("/health") as response:
            told = (await response.json())["comfyui_instances"]["instances"][0]["last_error"]
        assert "certificate" in told
    finally:
        await upstream.close()
