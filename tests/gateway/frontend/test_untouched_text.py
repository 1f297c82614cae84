"""What is not packed: it goes through as ComfyUI and the client say it."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from typing import Any

import pytest
from gateway_harness import Harness, RawServer, until_still
from manual_clock import ManualClock
from static_site import SCRIPT, File, Site, front, get, packed, shelf, text
from yarl import URL

from comfy_proxy.gateway.frontend import packing
from comfy_proxy.gateway.frontend.answering import MAX_BYTES, MIN_BYTES

PACKED_PATHS = [
    "/",
    "/scripts/app.js",
    "/scripts/app.js?v=2",
    "/assets/main-v8NNy4A_.css",
    "/assets/lib/@primeuix/index.mjs",
    "/assets/locales/en.json",
    "/assets/images/logo.svg",
    "/extensions/core/clipspace.js",
    "/extensions/My%20Pack/pack.css",
    "/materialdesignicons.min.css",
    "/templates/index.json",
    "/docs/CLIPTextEncode/en.md",
    "/global_subgraphs",
    "/api/global_subgraphs",
    "/api/i18n",
    "/extensions",
]
OTHER_PATHS = [
    "/user.css",
    "/api/userdata/user.css",
    "/api/settings",
    "/history",
    "/view?filename=a.svg",
    "/extensions/MyPack/notes.json",
    "/extensions/MyPack/api/notes",
    "/my_pack/page.js",
    "/assets/fonts/a.woff2",
    "/assets/images/a.png",
    "/api/assets/index.js",
    "/fonts/a.css",
    "/assets/index.js.map",
    "/assets/..%2Findex.js",
    "/assets/a%2Fb.js",
    "/assets/%2e%2e/index.js",
    "/assets/./index.js",
    "/assets//index.js",
    "/assets/%00.js",
    "/assets/%ff.js",
    "/assets/a;b.js",
]


class Everywhere(dict[str, File]):
    """A site's files: the same script whatever is asked for."""

    def get(self, path: str, default: Any = None) -> Any:
        return self[SCRIPT]


@pytest.mark.parametrize("path", PACKED_PATHS)
async def test_text_of_the_frontend_is_packed(harness: Harness, path: str) -> None:
    site = Site()
    site.files = Everywhere(site.files)
    proxy = await front(harness, site)
    answer, body = await get(proxy, path)
    assert answer.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(body) == site.file.body
    assert site.asked[0].raw_path == path


@pytest.mark.parametrize("path", OTHER_PATHS)
async def test_all_else_is_not(harness: Harness, path: str) -> None:
    """What users own, what packs make, fonts and pictures, and paths that are odd."""
    site = Site()
    site.files = Everywhere(site.files)
    proxy = await front(harness, site)
    async with proxy.client.get(
        URL(f"{proxy.client._base_url}".rstrip("/") + path, encoded=True),
        headers={"Accept-Encoding": "gzip"},
    ) as answer:
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Content-Encoding" not in answer.headers
        assert await answer.read() == site.file.body
    assert site.asked[0].headers["Accept-Encoding"] == "gzip"
    assert len(shelf(proxy).kept) == 0


@pytest.mark.parametrize(
    "header",
    [
        {"Range": "bytes=0-99"},
        {"If-Range": '"18ec1f1c-feb0"'},
        {"If-Match": '"x"'},
        {"If-Unmodified-Since": "Sat, 28 Nov 2026 05:42:39 GMT"},
        {"If-None-Match": "*"},
        {"If-None-Match": "no tag"},
        {"If-None-Match": ", ".join(f'"{n}"' for n in range(9))},
        {"Authorization": "Basic dTpw"},
        {"Accept-Encoding": "identity"},
        {"Accept-Encoding": "deflate, zstd"},
        {"Accept-Encoding": "gzip;q=0, br;q=0"},
        {"Accept-Encoding": "GZIP;Q=0.0"},
        {"Accept-Encoding": "gzip;q=0.5, br;q=0.5, identity"},
        {"Accept-Encoding": ""},
    ],
)
async def test_what_asks_for_something_else_is_forwarded_as_it_is(
    harness: Harness, header: dict[str, str]
) -> None:
    """Parts, conditions that are to fail, credentials of another, codings that are not taken."""
    site = Site()
    proxy = await front(harness, site)
    sent = {"Accept-Encoding": "gzip"} | header
    async with proxy.client.get(SCRIPT, headers=sent) as answer:
        body = await answer.read()
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Content-Encoding" not in answer.headers
        assert "Vary" not in answer.headers
    (asked,) = site.asked
    assert {name: asked.headers[name] for name in sent} == sent
    assert site.file.body.startswith(body)
    assert packed(proxy) == 0


async def test_a_part_of_a_file_is_a_part_of_its_own_bytes(harness: Harness) -> None:
    """Also when the packed one is kept."""
    site = Site()
    proxy = await front(harness, site)
    await get(proxy)
    answer, body = await get(proxy, Range="bytes=10-19")
    assert answer.status == 206
    assert body == site.file.body[10:20]


async def test_a_client_that_says_nothing_gets_it_as_it_is(harness: Harness) -> None:
    """Byte for byte, with and without a copy that is kept."""
    site = Site()
    proxy = await front(harness, site)
    request = f"GET {SCRIPT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    for _ in range(2):
        answer = await proxy.exchange(request)
        assert answer.endswith(b"\r\n\r\n" + site.file.body)
        assert b"no-store" in answer
        assert b"Vary" not in answer
        await get(proxy)


@pytest.mark.parametrize(
    "changes",
    [
        {"body": text(size=MIN_BYTES - 1)},
        {"body": b"x" * (MAX_BYTES + 1)},
        {"kind": "application/octet-stream"},
        {"kind": "image/png"},
        {"etag": '"a b"', "headers": {}},
        {"headers": {"Vary": "Cookie"}},
        {"headers": {"Vary": "*"}},
        {"headers": {"Set-Cookie": "a=b"}},
        {"headers": {"Content-Encoding": "zstd"}},
    ],
)
async def test_answers_that_are_no_plain_text_go_through(
    harness: Harness, changes: dict[str, Any]
) -> None:
    """Tiny and huge ones, pictures, those of one client alone, those that are packed already."""
    site = Site()
    for name, value in changes.items():
        setattr(site.file, name, value)
    answer, body = await get(await front(harness, site))
    assert body == site.file.body
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["ETag"] == site.file.etag
    assert answer.headers.get("Content-Encoding") == site.file.headers.get("Content-Encoding")


async def test_the_key_of_the_proxy_is_no_credential_of_another(harness: Harness) -> None:
    """It is taken off as ever, and what it may see is packed."""
    site = Site()
    key = "k" * 40
    proxy = await front(harness, site, api_keys=(key,))
    answer, _ = await get(proxy, Authorization=f"Bearer {key}")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert "Authorization" not in site.asked[0].headers
    refused, _ = await get(proxy)
    assert refused.status == 401


async def test_a_cookie_goes_to_the_instance_which_may_refuse(harness: Harness) -> None:
    """Nothing that is kept is given without its word to this very client."""
    site = Site()
    proxy = await front(harness, site)
    await get(proxy, Cookie="who=me")
    assert site.asked[0].headers["Cookie"] == "who=me"
    site.refusal = 403
    answer, _ = await get(proxy)
    assert answer.status == 403


Script = Callable[[RawServer, asyncio.StreamReader, asyncio.StreamWriter], Any]
HEAD = b'HTTP/1.1 200 OK\r\nContent-Type: text/css\r\nETag: "1"\r\nContent-Length: 20000\r\n\r\n'


async def test_another_instance_has_another_version(harness: Harness) -> None:
    """The first one dies after its file was kept: the second one's is sent, and kept beside it."""

    async def once(server: RawServer, _: asyncio.StreamReader, writer: Any) -> None:
        if len(server.heads) > 1:
            writer.transport.abort()
            return
        writer.write(HEAD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + b"x" * 20_000)

    site, first = Site(), await harness.raw(once)
    proxy = await harness.proxy(first.url, await harness.upstream(site.answer))
    answer, body = await get(proxy)
    assert (answer.headers["ETag"], gzip.decompress(body)) == ('W/"1-gzip"', b"x" * 20_000)
    answer, body = await get(proxy, If_None_Match='W/"1-gzip"')
    assert answer.status == 200
    assert answer.headers["ETag"] == 'W/"18ec1f1c-feb0-gzip"'
    assert gzip.decompress(body) == site.file.body
    assert [entry.key.version for entry in shelf(proxy).kept.versions(SCRIPT, "gzip")] == [
        "1",
        "18ec1f1c-feb0",
    ]


async def test_head_of_what_is_not_packed_tells_its_own_length(harness: Harness) -> None:
    """And no body."""
    site = Site()
    site.file.body = b"let x;"
    proxy = await front(harness, site)
    async with proxy.client.head(SCRIPT, headers={"Accept-Encoding": "gzip"}) as answer:
        assert await answer.read() == b""
        assert answer.headers["Content-Length"] == "6"
        assert answer.headers["ETag"] == site.file.etag


async def test_an_instance_that_dies_in_the_middle_is_passed_over(harness: Harness) -> None:
    """Nothing was sent before the whole was read: another one answers, and nothing is kept."""

    async def dying(server: RawServer, _: asyncio.StreamReader, writer: Any) -> None:
        writer.write(HEAD + b"x" * 100)
        await writer.drain()

    site, dead = Site(), await harness.raw(dying)
    proxy = await harness.proxy(dead.url, await harness.upstream(site.answer))
    answer, body = await get(proxy)
    assert answer.status == 200
    assert gzip.decompress(body) == site.file.body
    assert {entry.version for entry in shelf(proxy).kept._entries} == {"18ec1f1c-feb0"}


async def test_one_that_stops_in_the_middle_is_passed_over(
    harness: Harness, clock: ManualClock
) -> None:
    """After STALL_S without a byte; what it holds of the memory is given back."""

    async def stopping(server: RawServer, reader: asyncio.StreamReader, writer: Any) -> None:
        writer.write(HEAD + b"x" * 100)
        await reader.read()
        server.closed.set()

    site, stopped = Site(), await harness.raw(stopping)
    proxy = await harness.proxy(stopped.url, await harness.upstream(site.answer))
    shelf(proxy).packing._clock = clock
    client = asyncio.create_task(get(proxy))
    await stopped.asked.wait()
    await until_still(lambda: shelf(proxy).packing.budget.taken)
    await clock.advance(packing.STALL_S)
    answer, _ = await client
    assert answer.status == 200
    await stopped.closed.wait()
    assert shelf(proxy).packing.budget.taken == 0


async def test_who_leaves_spoils_nothing_for_those_who_wait(harness: Harness) -> None:
    """The first of two clients leaves while the file is read: the other one gets it."""
    go_on, began = asyncio.Event(), asyncio.Queue[None]()

    async def slow(_: RawServer, __: asyncio.StreamReader, writer: Any) -> None:
        writer.write(HEAD + b"x" * 100)
        began.put_nowait(None)
        await go_on.wait()
        writer.write(b"x" * 19_900)

    proxy = await harness.proxy((await harness.raw(slow)).url)
    clients = []
    for _ in range(2):
        clients.append(asyncio.create_task(get(proxy)))
        await began.get()
        await until_still(lambda: len(shelf(proxy).packing._under_way))
    first, second = clients
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await proxy.cluster.attempts.get()
    go_on.set()
    answer, body = await second
    assert gzip.decompress(body) == b"x" * 20_000
    assert packed(proxy) == 1
    assert answer.status == 200
