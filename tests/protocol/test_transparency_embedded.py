"""Nobody can tell the proxy over two workers from one worker, but for the table of differences."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from comparison import held, unlisted
from conversations import WITH_ANY
from differences import TABLE
from edits import Difference, added, sorted_headers
from raw_http import Answer
from scenarios import MODEL

from comfy_proxy.embedded.worker import EmbeddedWorker


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[list[EmbeddedWorker]]:
    """Workers that are alike: one to be asked directly, two to stand behind the proxy."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                EmbeddedWorker(
                    base_directory=tmp_path / name,
                    name="alike",
                    test_nodes=True,
                    upscale_models=(MODEL,),
                )
            )
            for name in ("direct", "first", "second")
        ]


@pytest.mark.long
async def test_the_proxy_answers_as_a_worker_does(
    three: list[EmbeddedWorker], start_proxy: Callable[..., Any]
) -> None:
    """Status, all headers and bodies of 300 kinds of request; what differs is in the table."""
    alone, *pair = three
    proxy = await start_proxy(*pair)
    direct = await held(WITH_ANY, alone.url)
    proxied = await held(WITH_ANY, str(proxy.make_url("")))
    table = [row for row in TABLE if "embedded" in row.only]
    assert unlisted(direct, proxied, table) == []


async def test_requests_that_follow_at_once_are_answered_in_turn(
    three: list[EmbeddedWorker], start_proxy: Callable[..., Any]
) -> None:
    """Pipelined: forwarded, merged and refused ones on one connection, each with its own end."""
    alone, *pair = three
    proxy = await start_proxy(*pair)
    lines = []
    for url in (alone.url, str(proxy.make_url("")).rstrip("/")):
        host, _, port = url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        targets = ("HEAD /features", "GET /queue", "GET /nowhere", "PUT /queue", "GET /models")
        heads = [f"{target} HTTP/1.1\r\nHost: {host}\r\n" for target in targets]
        writer.write(("\r\n".join(heads) + "Connection: close\r\n\r\n").encode())
        answer = await reader.read()
        writer.close()
        lines.append(re.findall(rb"HTTP/1.1 .*|[Cc]ontent-.*|\{.*|\[.*", answer))
    assert lines[0] == lines[1]
    assert b"".join(lines[0]).count(b"HTTP/1.1 ") == 5


def test_there_are_many_kinds_of_request() -> None:
    """At least 60 of them, on every method that ComfyUI knows."""
    assert len(WITH_ANY) >= 60
    methods = {kind.line.split(" ")[0] for kind in WITH_ANY}
    assert methods >= {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_each_row_has_its_reason(row: Difference) -> None:
    """And one way to be hidden or taken back, and servers on which it occurs."""
    assert len(row.reason) > 20
    assert [row.chance, row.undo, row.alike].count(None) == 2
    assert row.only in ("real embedded", "real")


def test_what_no_row_explains_is_told() -> None:
    """A header more, another order, another reason, another byte: each by itself."""
    direct = Answer(
        status_line=b"HTTP/1.1 200 OK", headers=((b"A", b"1"), (b"B", b"2")), body=b"body"
    )
    changes = [
        replace(direct, headers=((b"A", b"1"), (b"B", b"2"), (b"A", b"1"))),
        replace(direct, headers=direct.headers[::-1]),
        replace(direct, headers=((b"a", b"1"), (b"B", b"2"))),
        replace(direct, status_line=b"HTTP/1.1 200 Fine"),
        replace(direct, body=b"Body"),
        replace(direct, interim=(b"HTTP/1.1 100 Continue",)),
    ]
    assert unlisted({"a": direct}, {"a": direct}, ()) == []
    for proxied in changes:
        (line,) = unlisted({"a": direct}, {"a": proxied}, ())
        assert line.startswith("a\n")


def test_a_row_that_nothing_needs_is_told() -> None:
    """What no longer differs goes from the table."""
    answer = Answer(status_line=b"HTTP/1.1 200 OK", headers=((b"B", b"1"), (b"A", b"1")))
    for way in ({"undo": added(b"X-Request-ID")}, {"alike": sorted_headers}):
        row = Difference(name="gone", reason="it was there once", **way)
        assert unlisted({"a": answer}, {"a": answer}, [row]) == [
            "the table has what does not occur: gone"
        ]
