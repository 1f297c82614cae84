"""The body of a prompt is read by its charset and stays valid in it, whatever is put in."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient, TestServer
from gateway_harness import unused_url
from prompts_front import Workers, ended, get, graph, instance_of, pile_up, post, show, until

from comfy_proxy.cluster.prompt_lists import history_path
from comfy_proxy.gateway.prompts.posting import sent_body
from comfy_proxy.gateway.prompts.prompt_body import document, with_first, with_last
from comfy_proxy.keys import GATEWAY

CHARSETS = [
    *("utf-8", "UTF8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"),
    *("latin-1", "cp1252", "utf-7", "ascii"),
]
TEXT = '{"prompt": {"1": {"inputs": {"text": "sch\\u00f6n {}"}}}, "x": NaN}'


def typed(charset: str) -> dict[str, str]:
    return {"Content-Type": f"application/json; charset={charset}"}


@pytest.mark.parametrize("charset", CHARSETS)
def test_keys_are_put_in_in_the_charset_of_the_body(charset: str) -> None:
    """First and last, and nothing else of it changes."""
    body = TEXT.encode(charset)
    assert document(body, charset) is not None
    first = with_first(body, charset, "prompt_id", "a")
    assert first.decode(charset) == '{"prompt_id": "a", ' + TEXT[1:]
    last = with_last(first, charset, "number", 1.5)
    assert last.decode(charset) == '{"prompt_id": "a", ' + TEXT[1:-1] + ', "number": 1.5}'


def test_big_endian_with_its_mark() -> None:
    """A byte order mark of the other end is understood; ours says what we wrote."""
    body = b"\xfe\xff" + TEXT.encode("utf-16-be")
    changed = with_first(body, "utf-16", "prompt_id", "a")
    assert changed.decode("utf-16") == '{"prompt_id": "a", ' + TEXT[1:]


@pytest.mark.parametrize(
    ("body", "charset"),
    [
        (b"", "utf-8"),
        (b"[]", "utf-8"),
        (b"\xef\xbb\xbf{}", "utf-8"),
        (b"\xff", "utf-8"),
        (b"{}", "nonsense"),
        (b"{}", "base64"),
        (b"{}", "utf-16-le"),
        (b"{", "utf-16-le"),
        (b"\xef\xbb\xbf{}", "latin-1"),
        ("{}".encode("utf-16"), "utf-8"),
        (b"[" * 100_000, "latin-1"),
    ],
)
def test_what_comfyui_cannot_read_either(body: bytes, charset: str) -> None:
    """Its own answer is the client's then."""
    assert document(body, charset) is None


async def exchange(
    http: TestClient | ClientSession, url: str, body: bytes, headers: dict[str, str]
) -> tuple[int, bytes]:
    async with http.post(url, data=body, headers=headers) as answer:
        return answer.status, await answer.read()


@pytest.mark.long
@pytest.mark.parametrize("charset", CHARSETS)
async def test_a_prompt_in_any_charset_is_counted_and_owned(
    proxy: TestClient, workers: Workers, charset: str
) -> None:
    """It runs at an instance of our choice, and its end is known."""
    # The first one runs when the second comes, which goes to the other instance therefore.
    body = json.dumps({"prompt": graph(0.3, prefix="plain")}).encode(charset)
    ids = []
    for _ in workers:
        status, answer = await exchange(proxy, "/prompt", body, typed(charset))
        assert status == 200
        ids.append(json.loads(answer)["prompt_id"])
    await ended(proxy, *ids)
    owner_of = proxy.app[GATEWAY].ledger.owner
    for worker in workers:
        (prompt_id,) = worker.submitted
        assert owner_of(prompt_id) is instance_of(proxy, worker)
    assert (await get(proxy, "/metrics"))["prompts"]["forwarded"] == 2


@pytest.mark.parametrize(
    ("encoding", "packed"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
async def test_a_compressed_prompt_in_another_charset(
    proxy: TestClient, workers: Workers, encoding: str, packed: Callable[[bytes], bytes]
) -> None:
    """Decoded once, by whoever reads it first."""
    body = packed(json.dumps({"prompt": graph()}).encode("utf-16"))
    headers = {**typed("utf-16"), "Content-Encoding": encoding}
    status, answer = await exchange(proxy, "/prompt", body, headers)
    assert status == 200
    prompt_id = json.loads(answer)["prompt_id"]
    assert proxy.app[GATEWAY].ledger.owner(prompt_id) is not None


@pytest.mark.parametrize(
    ("body", "charset"),
    [
        (json.dumps({"prompt": graph()}).encode(), "nonsense"),
        (json.dumps({"prompt": graph()}).encode(), "utf-16"),
        (json.dumps({"prompt": graph()}).encode("utf-16"), "utf-8"),
        (b"\xef\xbb\xbf" + json.dumps({"prompt": graph()}).encode(), "utf-8"),
        (b'{"prompt": 5}'.decode().encode("utf-16"), "utf-16"),
    ],
)
async def test_what_cannot_be_read_is_answered_by_comfyui(
    proxy: TestClient, workers: Workers, body: bytes, charset: str
) -> None:
    """In its own words, and nothing is counted."""
    async with ClientSession() as session:
        direct = await exchange(session, f"{workers[0].url}/prompt", body, typed(charset))
    assert await exchange(proxy, "/prompt", body, typed(charset)) == direct
    assert direct[0] >= 400
    assert (await get(proxy, "/metrics"))["prompts"]["forwarded"] == 0


@pytest.mark.long
@pytest.mark.parametrize("path", ["/prompt", "/queue", "/history", "/interrupt", "/free"])
@pytest.mark.parametrize("charset", ["punycode", "IDNA"])
async def test_a_charset_that_takes_hours_is_not_read(
    proxy: TestClient, workers: Workers, path: str, charset: str
) -> None:
    """Neither here nor by an instance: 400, at once whatever the length."""
    body = b'{"prompt": {}}-' + b"a9" * 400_000
    status, answer = await exchange(proxy, path, body, typed(charset))
    assert status == 400
    assert json.loads(answer)["details"] == {"charset": charset}


async def test_a_moved_prompt_keeps_its_charset(proxy: TestClient, workers: Workers) -> None:
    """The number that it takes along is put in as the body is written."""
    await pile_up(proxy, workers, 2)
    body = json.dumps({"prompt": graph(0.01), "prompt_id": "wide"}).encode("utf-16")
    status, _ = await exchange(proxy, "/prompt", body, typed("utf-16"))
    assert status == 200
    await show(proxy, workers[1])
    await ended(proxy, "wide")
    assert "wide" in workers[1].submitted


@pytest.mark.parametrize(
    ("path", "body"), [("/queue", {"delete": ["wide"]}), ("/history", {"delete": ["wide"]})]
)
async def test_commands_in_another_charset_reach_whom_they_concern(
    proxy: TestClient, workers: Workers, path: str, body: Any
) -> None:
    """Ids are read by the charset, and told to the owner in a body of our own."""
    await ended(proxy, await post(proxy, prompt_id="wide"))
    for charset in ("utf-16", "latin-1"):
        sent = json.dumps(body).encode(charset)
        assert (await exchange(proxy, path, sent, typed(charset)))[0] == 200
    left = {"wide"} if path == "/queue" else set()
    assert set(await get(proxy, "/history")) == left


@pytest.mark.long
@pytest.mark.parametrize("path", ["/queue", "/history", "/interrupt", "/free"])
@pytest.mark.parametrize("charset", ["utf-16", "nonsense"])
async def test_commands_that_cannot_be_read_are_answered_by_comfyui(
    proxy: TestClient, workers: Workers, path: str, charset: str
) -> None:
    """In its own words."""
    body = b'{"clear": true}'
    async with ClientSession() as session:
        direct = await exchange(session, f"{workers[0].url}{path}", body, typed(charset))
    assert await exchange(proxy, path, body, typed(charset)) == direct
    assert direct[0] >= 400


# --- ids that ComfyUI accepts ------------------------------------------------------------

ODD_IDS = [
    *(5, 1.5, True, None, 10**30, ["a"], {"a": 1}, "UPPER-0A", "a/b", "a?b#c%d", "..", "{x}"),
    *("\ud800", "ö\n", "a" * 300),
]


@pytest.mark.long
@pytest.mark.parametrize("odd", ODD_IDS, ids=repr)
async def test_an_odd_id_is_owned_as_the_answer_tells_it(
    proxy: TestClient, workers: Workers, odd: Any
) -> None:
    """Its end is known, and whose it is."""
    told: list[Any] = []
    proxy.app[GATEWAY].cluster.on_prompt_end.append(told.append)
    body = json.dumps({"prompt": graph(0.01), "prompt_id": odd}).encode()
    status, answer = await exchange(proxy, "/prompt", body, typed("utf-8"))
    assert status == 200
    prompt_id = json.loads(answer)["prompt_id"]
    assert prompt_id == str(odd)
    assert proxy.app[GATEWAY].ledger.owner(prompt_id) is not None
    await until(lambda: told)
    assert [end.prompt_id for end in told] == [prompt_id]


@pytest.mark.long
@pytest.mark.parametrize("odd", [None, 5, "a/b", "a?b#c%d", "..", "{x}", "ö"], ids=repr)
async def test_a_prompt_with_an_odd_id_moves_as_any(
    proxy: TestClient, workers: Workers, odd: Any
) -> None:
    """Whether it ran is found out by its id, whatever that does to a path."""
    await pile_up(proxy, workers, 1)
    body = json.dumps({"prompt": graph(0.01), "prompt_id": odd}).encode()
    assert (await exchange(proxy, "/prompt", body, typed("utf-8")))[0] == 200
    await show(proxy, workers[1])
    await until(lambda: str(odd) in workers[1].executed)
    assert str(odd) not in workers[0].started


@pytest.mark.parametrize(
    ("prompt_id", "path"),
    [
        ("a-1", "/history/a-1"),
        ("a/b?c#d%e f", "/history/a%2Fb%3Fc%23d%25e%20f"),
        ("ö", "/history/%C3%B6"),
        ("...", "/history/..."),
        ("..", "/history"),
        (".", "/history"),
        ("", "/history"),
        ("{x", "/history"),
        ("\ud800", "/history"),
    ],
)
def test_where_an_id_is_found(prompt_id: str, path: str) -> None:
    """By its path, or in the whole history if no path leads to it."""
    assert history_path(prompt_id) == path


@asynccontextmanager
async def minting(start_proxy: Callable[..., Any], prompt_id: str) -> AsyncIterator[TestClient]:
    """A proxy in front of a server that gives each prompt this id, whatever it asks for."""

    async def take(_request: web.Request) -> web.Response:
        return web.json_response({"prompt_id": prompt_id, "number": 7, "node_errors": {}})

    async def nothing(_request: web.Request) -> web.Response:
        return web.json_response({"system": {}})

    app = web.Application()
    app.router.add_post("/prompt", take)
    app.router.add_get("/{path:.*}", nothing)
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        yield await start_proxy(url, str(await unused_url()))


@pytest.mark.parametrize("asked", [None, "A-B", "a-b"])
async def test_an_id_that_the_instance_gave_goes_along(
    start_proxy: Callable[..., Any], asked: str | None
) -> None:
    """A client knows its prompt by that; where it moves to it must not get another."""
    body = json.dumps({"prompt": {"1": {}}, "prompt_id": asked}).encode("utf-16")
    async with minting(start_proxy, "a-b") as http:
        assert (await exchange(http, "/prompt", body, typed("utf-16")))[0] == 200
        gateway = http.app[GATEWAY]
        assert gateway.ledger.owner("a-b") is gateway.cluster.instances[0]
        prompt = gateway.ledger.find("a-b")
        moved = sent_body(prompt, prompt.post, 3).decode("utf-16")
    added = "" if asked == "a-b" else ', "prompt_id": "a-b"'
    assert moved == body.decode("utf-16")[:-1] + ', "number": 3' + added + "}"


async def test_a_prompt_that_only_comfyui_can_read_is_owned(
    start_proxy: Callable[..., Any],
) -> None:
    """Whatever it takes has an owner and is counted, though it is nothing that we know."""
    async with minting(start_proxy, "odd") as http:
        status, _ = await exchange(http, "/prompt", b"<prompt/>", {"Content-Type": "text/xml"})
        assert status == 200
        gateway = http.app[GATEWAY]
        assert gateway.ledger.owner("odd") is gateway.cluster.instances[0]
        assert gateway.ledger.find("odd").post is None  # so it is never moved
        assert (await get(http, "/metrics"))["prompts"]["forwarded"] == 1
