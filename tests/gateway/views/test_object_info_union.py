"""gateway/views/object_info_union.py: joined from bytes, the union is what it is from objects."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import pytest
from large_object_info import large_object_info, recorded

from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.cluster.object_info.inputs import united
from comfy_proxy.cluster.object_info.table_maker import TableMaker
from comfy_proxy.gateway.views.object_info_union import ASKED, STEP_BYTES, UNITED, Union


def catalog(body: bytes) -> NodeCatalog:
    maker = TableMaker(body, None, "test")
    for _ in maker.steps():
        pass
    return NodeCatalog(maker.table)


def from_objects(documents: Sequence[dict[str, Any]]) -> bytes:
    """The union as it is made from whole documents."""
    names = dict.fromkeys(name for one in documents for name in one)
    classes = {name: united([one[name] for one in documents if name in one]) for name in names}
    return json.dumps(classes).encode()


def combo(*values: str) -> dict[str, Any]:
    return {"input": {"required": {"model": [list(values), {}]}}, "output": []}


async def test_a_real_document_comes_out_as_it_went_in() -> None:
    """800 classes of a real ComfyUI, limits of 64 bits included; the very bytes that came."""
    body = json.dumps(recorded()).encode()
    one = catalog(body)
    assert (await Union([one, one]).whole()).body is body
    assert (await Union([one, catalog(body + b" ")]).whole()).body == body


async def test_the_union_is_that_of_the_objects() -> None:
    """With other classes, other choices and another order."""
    first = recorded()
    second = dict(reversed(first.items()))
    third = {**first, "New": combo("x")}
    for number, name in enumerate(list(first)[::7]):
        second[name] = combo(f"only here {number}.safetensors")
        third[name] = {**first[name], "description": "é"}
    del third[next(iter(third))]
    documents = [first, second, third]
    union = Union([catalog(json.dumps(one).encode()) for one in documents])
    whole = await union.whole()
    assert whole.body == from_objects(documents)
    assert gzip.decompress((await union.gzipped()).body) == whole.body
    parsed = json.loads(whole.body)
    for name in (*list(first)[:20], "New"):
        assert (await union.one(name)).body == json.dumps({name: parsed[name]}).encode()
    assert (await union.one("Nothing")).body == b"{}"


@pytest.mark.parametrize(
    "body",
    [
        '{"A":{"n":1},"B":{"n":[1,2]}}',
        ' {"A": {"n": 1}, "A": {"n": 2}, "B": 3} ',
        '{"é": {"n": "é\udce9", "big": -18446744073709551615, "max": Infinity}}',
        "{}",
    ],
)
async def test_odd_documents_are_sent_so_that_all_can_read_them(body: str) -> None:
    """Names as ComfyUI writes them, the text of a class as it came if it is ASCII, each once."""
    text = body.encode("utf-8", "surrogateescape")
    sent = (await Union([catalog(text)]).whole()).body
    assert sent.isascii()
    classes = {name: info for name, info in json.loads(body).items() if isinstance(info, dict)}
    assert json.loads(sent) == classes
    if not text.isascii():
        assert sent == json.dumps(classes).encode()


async def test_what_was_united_is_not_united_again() -> None:
    """After an upload one class is written, all others are taken over; none that agree is read."""
    infos = [{"A": combo("a"), "B": combo("b"), "C": combo("c")} for _ in range(2)]
    infos[1] |= {"A": combo("z"), "B": combo("y")}
    documents = [NodeCatalog.from_json(one) for one in infos]
    before = Union(documents)
    await before.whole()
    news = documents[0].with_news(["A"], NodeCatalog.from_json({"A": combo("a", "new")}))
    after = Union([news, documents[1]], before)
    infos[0]["A"] = combo("a", "new")
    assert (await after.whole()).body == from_objects(infos)
    assert after._united["B"] is before._united["B"]
    assert list(after._united) == ["A", "B"]
    assert after.is_of(after.documents)
    assert not after.is_of(documents)


@pytest.mark.long
async def test_a_large_union_is_made_in_short_steps() -> None:
    """Two documents of 10 MB that differ in one class of a hundred."""
    documents = [catalog(large_object_info(revision)) for revision in (1, 2)]
    pieces: list[bytes] = []
    found = [step for step in Union(documents).steps(pieces) if isinstance(step, int)]
    longest = max(len(documents[0].text(name) or b"") for name in documents[0])
    assert max(found) < STEP_BYTES + UNITED * (longest + 500) + 2 * ASKED
    assert max(map(len, pieces)) < STEP_BYTES + longest + 500
    whole = await Union(documents).whole()
    assert whole.body == b"".join(pieces)
    assert len(json.loads(whole.body)) == 6_000


async def test_lists_of_thousands_of_files_are_united_in_a_thread() -> None:
    """By the loop it would be 50 ms; what comes out is the same, and taken over later."""
    lists = [
        [f"{start + number} of many pictures.png" for number in range(30_000)] for start in (0, 9)
    ]
    infos = [{"Small": combo("a"), "LoadImage": combo(*files)} for files in lists]
    documents = [NodeCatalog.from_json(one) for one in infos]
    union = Union(documents)
    with patch.object(asyncio, "to_thread", wraps=asyncio.to_thread) as thread:
        one = await union.one("LoadImage")
        assert thread.call_count == 1
        assert (await union.whole()).body == from_objects(infos)
    assert json.loads(one.body)["LoadImage"] == united([info["LoadImage"] for info in infos])
