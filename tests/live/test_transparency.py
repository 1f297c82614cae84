"""A real ComfyUI and the proxy over two of them in one conversation; 100 MB both ways.

What may differ is in ``tests/protocol/differences.py``, each with its reason.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from comparison import held, unlisted
from conversations import WITH_REAL
from differences import TABLE
from served_proxy import ServedProxy, served

MEGABYTE = 2**20
HUNDRED_MEGABYTES = 100 * MEGABYTE
BARELY_ACCEPTED = 99 * MEGABYTE
"""ComfyUI takes forms of 100 MiB, and a form is more than its file."""
MAY_GROW_BY = 24 * MEGABYTE
CHUNK = bytes(range(256)) * 256


async def test_the_proxy_answers_as_comfyui_does(
    live_urls: tuple[str, str], live_directories: tuple[Path, Path]
) -> None:
    """Status, all headers and bodies of 370 kinds of request; what differs is in the table."""
    await _made_new(live_urls, live_directories)
    direct = await held(WITH_REAL, live_urls[0])
    await _made_new(live_urls, live_directories)
    async with served(*live_urls) as proxy:
        proxied = await held(WITH_REAL, proxy.url)
    await _made_new(live_urls, live_directories)
    assert direct["GET /proxy-test/gzip"].status == 200, "the servers lack the test's custom node"
    assert unlisted(direct, proxied, [row for row in TABLE if "real" in row.only]) == []


async def _made_new(urls: tuple[str, str], directories: tuple[Path, Path]) -> None:
    """As after the installation: nothing in queue, history and cache, no files, no settings."""
    async with aiohttp.ClientSession() as session:
        for url in urls:
            for path, body in (("queue", {"clear": True}), ("interrupt", {})):
                async with session.post(f"{url}/{path}", json=body):
                    pass
            async with asyncio.timeout(60):
                await _until_idle(session, url)
            # The last prompt of an earlier test may have had one of our nodes: it would be cached.
            for path, body in (("history", {"clear": True}), ("free", {"free_memory": True})):
                async with session.post(f"{url}/{path}", json=body):
                    pass
    for directory in directories:
        for files in ("input", "output", "temp", "user/default"):
            await asyncio.to_thread(shutil.rmtree, directory / files, ignore_errors=True)
        for made in ("input/3d", "output", "temp"):  # ComfyUI makes the first when it is asked
            (directory / made).mkdir(parents=True)


async def _until_idle(session: aiohttp.ClientSession, url: str) -> None:
    while True:
        if not (await _json(session, f"{url}/queue"))["queue_running"]:
            return
        await asyncio.sleep(0.05)


async def _json(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as answer:
        return json.loads(await answer.read())


# --- large bodies -------------------------------------------------------------------------


@pytest.fixture
async def proxy(live_urls: tuple[str, str]) -> AsyncIterator[ServedProxy]:
    """A proxy in a process of its own that has answered a few requests of each kind already."""
    async with served(*live_urls) as running, aiohttp.ClientSession(running.url) as session:
        for _ in range(3):
            await _sent(session, "/proxy-test/sink", 8 * MEGABYTE)
            await _received(session, f"/proxy-test/large?bytes={8 * MEGABYTE}")
            await _uploaded(session, "warm.bin", 8 * MEGABYTE)
        yield running


@pytest.mark.parametrize("length", [str(HUNDRED_MEGABYTES), None])
async def test_100_megabytes_go_up_in_bounded_memory(
    proxy: ServedProxy, length: str | None
) -> None:
    """With a length or in chunks, to a custom node's route: every byte, and none is kept."""
    before = proxy.forget_peak()
    headers = {} if length is None else {"Content-Length": length}
    async with aiohttp.ClientSession(proxy.url) as session:
        told = await _sent(session, "/proxy-test/sink", HUNDRED_MEGABYTES, headers)
    assert told == {"bytes": HUNDRED_MEGABYTES, "sha256": _digest(HUNDRED_MEGABYTES)}
    _grew_little(proxy, before, f"up, length {length}")


@pytest.mark.parametrize("query", ["", "&length"])
async def test_100_megabytes_come_down_in_bounded_memory(proxy: ServedProxy, query: str) -> None:
    """With a length or in chunks, from a custom node's route: every byte, and none is kept."""
    before = proxy.forget_peak()
    path = f"/proxy-test/large?bytes={HUNDRED_MEGABYTES}{query}"
    async with aiohttp.ClientSession(proxy.url) as session:
        assert await _received(session, path) == (HUNDRED_MEGABYTES, _digest(HUNDRED_MEGABYTES))
    _grew_little(proxy, before, f"down{query}")


async def test_a_picture_of_100_megabytes_is_uploaded_in_bounded_memory(
    proxy: ServedProxy, live_urls: tuple[str, str]
) -> None:
    """The largest form that ComfyUI takes: it is on both instances, and comes back."""
    before = proxy.forget_peak()
    whole = BARELY_ACCEPTED, _digest(BARELY_ACCEPTED)
    async with aiohttp.ClientSession(proxy.url) as session:
        assert await _uploaded(session, "large.bin", BARELY_ACCEPTED) == "large.bin"
        assert await _received(session, "/view?filename=large.bin&type=input") == whole
    _grew_little(proxy, before, "an upload, and /view")
    for url in live_urls:
        async with aiohttp.ClientSession(url) as session:
            assert await _received(session, "/view?filename=large.bin&type=input") == whole


async def test_a_form_that_is_too_large_is_refused_by_comfyui(
    proxy: ServedProxy, live_urls: tuple[str, str]
) -> None:
    """413 in ComfyUI's own words, as directly."""
    told = []
    for url in (live_urls[0], proxy.url):
        async with aiohttp.ClientSession(url) as session:
            form = _form("large.bin", HUNDRED_MEGABYTES)
            async with session.post("/upload/image", data=form) as answer:
                told.append((answer.status, answer.content_type, await answer.text()))
    assert told[0][0] == 413
    assert told[0] == told[1]


def _grew_little(proxy: ServedProxy, before: int, what: str) -> None:
    grown = proxy.peak() - before
    print(f"{what}: {before / MEGABYTE:.0f} MiB before, {grown / MEGABYTE:.1f} MiB more")
    assert grown < MAY_GROW_BY


def _chunks(size: int) -> Any:
    whole, rest = divmod(size, len(CHUNK))
    yield from (CHUNK for _ in range(whole))
    yield CHUNK[:rest]


def _digest(size: int) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(size):
        digest.update(chunk)
    return digest.hexdigest()


async def _stream(size: int) -> AsyncIterator[bytes]:
    for chunk in _chunks(size):
        yield chunk


async def _sent(
    session: aiohttp.ClientSession, path: str, size: int, headers: dict[str, str] | None = None
) -> Any:
    async with session.post(path, data=_stream(size), headers=headers) as answer:
        return json.loads(await answer.read())


async def _received(session: aiohttp.ClientSession, path: str) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    async with session.get(path) as answer:
        assert answer.status == 200
        async for chunk in answer.content.iter_any():
            size += len(chunk)
            digest.update(chunk)
    return size, digest.hexdigest()


def _form(name: str, size: int) -> aiohttp.FormData:
    form = aiohttp.FormData()
    form.add_field("overwrite", "true")
    form.add_field("image", _stream(size), filename=name, content_type="image/png")
    return form


async def _uploaded(session: aiohttp.ClientSession, name: str, size: int) -> str:
    async with session.post("/upload/image", data=_form(name, size)) as answer:
        assert answer.status == 200, await answer.text()
        return str(json.loads(await answer.read())["name"])
