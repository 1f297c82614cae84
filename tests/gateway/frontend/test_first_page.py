"""What clients get of the frontend's static text, and what the instances are asked for it."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import pytest
from gateway_harness import Harness
from static_site import (
    CHANGED,
    LATER,
    REFUSAL,
    SCRIPT,
    TAKES_GZIP,
    File,
    Site,
    front,
    get,
    packed,
    shelf,
    text,
)

from comfy_proxy.gateway.frontend.codings import CODINGS
from comfy_proxy.gateway.frontend.kept import MAX_VERSIONS
from comfy_proxy.keys import GATEWAY
from comfy_proxy.metrics.live import StaticTextTotals

TAG = 'W/"18ec1f1c-feb0-gzip"'


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_script_comes_packed(harness: Harness, coding: str) -> None:
    """In a coding that the client takes, with the right length and a weak tag of its own."""
    site = Site()
    proxy = await front(harness, site)
    answer, body = await get(proxy, Accept_Encoding=coding)
    assert answer.status == 200
    assert answer.headers["Content-Encoding"] == coding
    assert answer.headers["Content-Length"] == str(len(body))
    assert answer.headers["ETag"] == f'W/"18ec1f1c-feb0-{coding}"'
    assert answer.headers["Content-Type"] == "application/javascript"
    assert len(body) < len(site.file.body) / 2
    assert unpacked(coding, body) == site.file.body


def unpacked(coding: str, body: bytes) -> bytes:
    if coding == "br":
        whole: bytes = pytest.importorskip("brotli").decompress(body)
        return whole
    return gzip.decompress(body)


async def test_a_client_may_store_what_comes_packed_and_asks_each_time(harness: Harness) -> None:
    """``no-store`` is ``no-cache`` for it, and ``Vary`` says what the answer hangs on."""
    site = Site()
    site.file.control = "no-store, must-revalidate"
    proxy = await front(harness, site)
    answer, _ = await get(proxy)
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert "Accept-Ranges" not in answer.headers


@pytest.mark.parametrize("control", ["public, max-age=60", None])
async def test_other_orders_to_caches_stay(harness: Harness, control: str | None) -> None:
    site = Site()
    site.file.control = control
    answer, _ = await get(await front(harness, site))
    assert answer.headers.get("Cache-Control") == control


@pytest.mark.parametrize("control", ["no-transform", "private, max-age=3"])
async def test_what_is_not_to_be_changed_is_not(harness: Harness, control: str) -> None:
    """An instance, or a server before it, may forbid it."""
    site = Site()
    site.file.control = control
    answer, body = await get(await front(harness, site))
    assert body == site.file.body
    assert answer.headers["Cache-Control"] == control


async def test_the_second_time_nothing_is_packed_and_nothing_is_fetched(harness: Harness) -> None:
    """The instance is asked whether it has that version, and what is kept is sent."""
    site = Site()
    proxy = await front(harness, site)
    first = await get(proxy)
    second = await get(proxy)
    assert second[1] == first[1]
    assert second[0].headers["ETag"] == first[0].headers["ETag"]
    assert site.answered == [200, 304]
    assert site.asked[1].headers["If-None-Match"] == '"18ec1f1c-feb0"'
    assert packed(proxy) == 1


async def test_a_reload_costs_no_body(harness: Harness) -> None:
    """304 for who has that version, from the instance's own word."""
    site = Site()
    proxy = await front(harness, site)
    await get(proxy)
    answer, body = await get(proxy, If_None_Match=TAG)
    assert (answer.status, body) == (304, b"")
    assert answer.headers["ETag"] == TAG
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert "Content-Encoding" not in answer.headers
    assert site.answered == [200, 304]


async def test_a_reload_costs_no_body_after_a_restart_of_the_proxy(harness: Harness) -> None:
    """The tag tells the instance's own: nothing has to be kept here."""
    site = Site()
    answer, _ = await get(await front(harness, site), If_None_Match=TAG)
    assert answer.status == 304
    assert site.answered == [304]
    assert '"18ec1f1c-feb0"' in site.asked[0].headers["If-None-Match"]


async def test_a_tag_of_another_coding_or_of_before_will_do(harness: Harness) -> None:
    """What the client has is that version: in Brotli, or as the instance once sent it."""
    proxy = await front(harness, Site())
    for tag in ('W/"18ec1f1c-feb0-br"', '"18ec1f1c-feb0"'):
        answer, _ = await get(proxy, If_None_Match=tag)
        assert (answer.status, answer.headers["ETag"]) == (304, tag)


async def test_a_new_version_shows_at_once(harness: Harness) -> None:
    """Between two requests the file changes: the next answer is the new one."""
    site = Site()
    proxy = await front(harness, site)
    await get(proxy)
    site.files[SCRIPT] = File(text("b"), etag='"new"', changed=LATER)
    for headers in ({"If_None_Match": TAG}, {}):
        answer, body = await get(proxy, **headers)
        assert answer.status == 200
        assert gzip.decompress(body) == text("b")
        assert answer.headers["ETag"] == 'W/"new-gzip"'


async def test_of_old_versions_few_are_kept(harness: Harness) -> None:
    """An instance is never asked about more than MAX_VERSIONS of a file."""
    site = Site()
    proxy = await front(harness, site)
    for number in range(5):
        site.file.etag = f'"{number}"'
        await get(proxy)
    assert len(shelf(proxy).kept) == MAX_VERSIONS
    await get(proxy)
    assert site.asked[-1].headers["If-None-Match"] == '"3", "4"'


async def test_a_date_serves_where_there_is_no_tag(harness: Harness) -> None:
    site = Site()
    site.file.etag = None
    proxy = await front(harness, site)
    answer, _ = await get(proxy)
    tag = answer.headers["ETag"]
    again, body = await get(proxy)
    assert again.status == 200
    assert gzip.decompress(body) == site.file.body
    assert site.answered == [200, 304]
    assert site.asked[1].headers["If-Modified-Since"] == CHANGED
    reload, _ = await get(proxy, If_None_Match=tag, If_Modified_Since=CHANGED)
    assert reload.status == 304
    assert packed(proxy) == 1


@pytest.mark.parametrize("kept", [False, True])
async def test_a_client_may_ask_by_the_date(harness: Harness, kept: bool) -> None:
    """``If-Modified-Since`` alone, whether that version is kept or not."""
    site = Site()
    proxy = await front(harness, site)
    if kept:
        await get(proxy)
    answer, _ = await get(proxy, If_Modified_Since=CHANGED)
    assert answer.status == 304
    assert answer.headers["Last-Modified"] == CHANGED
    older, body = await get(proxy, If_Modified_Since="Sat, 28 Nov 2020 05:42:39 GMT")
    assert older.status == 200
    assert gzip.decompress(body) == site.file.body


async def test_a_304_that_says_nothing_is_asked_about_again(harness: Harness) -> None:
    """Without its tag nobody knows which version the instance has."""
    site = Site()
    proxy = await front(harness, site)
    await get(proxy)
    site.file.says_what = False
    answer, body = await get(proxy, If_None_Match='"18ec1f1c-feb0", "other"')
    assert answer.status in (200, 304)
    assert site.answered == [200, 304, 200]
    assert answer.headers["ETag"] == '"18ec1f1c-feb0"'
    assert body == b""


async def test_without_a_version_it_is_forwarded_untouched(harness: Harness) -> None:
    site = Site()
    site.file.etag = site.file.changed = None
    answer, body = await get(await front(harness, site))
    assert body == site.file.body
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Vary" not in answer.headers
    assert "ETag" not in answer.headers


async def test_a_list_that_is_made_each_time_is_known_by_its_text(harness: Harness) -> None:
    """ComfyUI names no version of ``/global_subgraphs``: the same text is packed once, and is 304
    for who has it; another one shows at once."""
    site = Site()
    path = "/api/global_subgraphs"
    for name in (path, f"{path}/1898da355c"):
        site.files[name] = File(text(), None, None, "application/json; charset=utf-8", control=None)
    proxy = await front(harness, site)
    answer, body = await get(proxy, path)
    assert gzip.decompress(body) == text()
    tag = answer.headers["ETag"]
    assert (await get(proxy, path))[1] == body
    assert (await get(proxy, path, If_None_Match=tag))[0].status == 304
    assert packed(proxy) == 1
    site.files[path].body = text("b")
    answer, body = await get(proxy, path, If_None_Match=tag)
    assert gzip.decompress(body) == text("b")
    answer, _ = await get(proxy, f"{path}/1898da355c")
    assert answer.headers["Content-Encoding"] == "gzip"


@pytest.mark.parametrize("status", [403, 404, 500])
async def test_other_answers_go_through(harness: Harness, status: int) -> None:
    """With their own headers and bytes, whatever is kept of that file."""
    site = Site()
    proxy = await front(harness, site)
    await get(proxy)
    site.refusal = status
    answer, body = await get(proxy)
    assert answer.status == status
    assert body == REFUSAL
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["ETag"] == '"x"'


async def test_two_clients_at_once_cost_one_packing(harness: Harness) -> None:
    """Who comes while a file is fetched and packed waits for it."""
    site = Site()
    site.hold = asyncio.Event()
    proxy = await front(harness, site)
    clients = [asyncio.create_task(get(proxy)) for _ in range(5)]
    for _ in clients:
        await site.waiting.get()
    site.hold.set()
    answers = await asyncio.gather(*clients)
    assert {body for _, body in answers} == {answers[0][1]}
    assert gzip.decompress(answers[0][1]) == site.file.body
    assert packed(proxy) == 1


async def test_head_tells_what_get_would(harness: Harness) -> None:
    """Length, coding and tag, before and after a GET, and no body."""
    proxy = await front(harness, Site())
    async with proxy.client.head(SCRIPT, headers=TAKES_GZIP) as before:
        assert await before.read() == b""
    answer, body = await get(proxy)
    async with proxy.client.head(SCRIPT, headers=TAKES_GZIP) as after:
        assert await after.read() == b""
    names = ("Content-Length", "Content-Encoding", "ETag", "Vary", "Cache-Control")
    for name in names:
        assert before.headers[name] == after.headers[name] == answer.headers[name]
    assert before.headers["Content-Length"] == str(len(body))
    async with proxy.client.head(SCRIPT, headers=TAKES_GZIP | {"If-None-Match": TAG}) as answer:
        assert answer.status == 304


async def test_headers_are_those_of_today(harness: Harness) -> None:
    """What an instance says with its 304 takes the place of what it said with the body."""
    site = Site()
    site.file.headers = {"Content-Security-Policy": "default-src 'self'", "X-Pack": "1"}
    site.file.of_304 = {"Content-Security-Policy": "default-src 'none'", "Content-Type": "a/b"}
    proxy = await front(harness, site)
    await get(proxy)
    answer, body = await get(proxy)
    assert answer.status == 200
    assert gzip.decompress(body) == site.file.body
    assert answer.headers.getall("Content-Security-Policy") == ["default-src 'none'"]
    assert answer.headers["Content-Type"] == "application/javascript"
    assert answer.headers["X-Pack"] == "1"
    reload, _ = await get(proxy, If_None_Match=TAG)
    assert reload.headers["Content-Security-Policy"] == "default-src 'none'"
    assert "Content-Type" not in reload.headers


async def test_what_became_of_requests_is_counted(harness: Harness) -> None:
    """Packed, sent as kept, left at the client; a HEAD saves nothing."""
    site = Site()
    proxy = await front(harness, site)
    _, body = await get(proxy)
    await get(proxy)
    await get(proxy, If_None_Match=TAG)
    async with proxy.client.head(SCRIPT, headers=TAKES_GZIP) as answer:
        assert answer.status == 200
    totals = proxy.runner.app[GATEWAY].first_page.totals
    saved = 2 * (len(site.file.body) - len(body))
    assert totals == StaticTextTotals(packed=1, kept=2, unchanged=1, saved_bytes=saved)


async def test_compress_false_leaves_all_as_it_is(harness: Harness) -> None:
    """The instance gets what the client asks, the client what the instance answers."""
    site = Site()
    proxy = await front(harness, site, compress=False)
    answer, body = await get(proxy, If_None_Match='"other"')
    assert body == site.file.body
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["ETag"] == '"18ec1f1c-feb0"'
    assert "Vary" not in answer.headers
    assert site.asked[0].headers["Accept-Encoding"] == "gzip, deflate"
    assert site.asked[0].headers["If-None-Match"] == '"other"'


def test_what_is_packed_by_gzip_says_nothing_of_when() -> None:
    """The same body is the same bytes, so that a client's part of it stays one."""
    assert CODINGS["gzip"](b"x" * 100) == CODINGS["gzip"](b"x" * 100)
    assert zlib.decompress(CODINGS["gzip"](b"x"), 31) == b"x"
