"""A result in JSON, made piece by piece."""

from __future__ import annotations

import base64
import json

import pytest
from made import stored

from comfy_proxy.jobs.results.streamed_json import Base64Json, TextJson
from comfy_proxy.lenient_json import dumps
from comfy_proxy.stored_bytes import BATCH_BYTES


@pytest.mark.parametrize("size", [0, 1, 2, 3, 262_144, 1_000_000, 1_000_001, 1_000_002])
async def test_it_is_the_same_as_in_one_piece(size: int) -> None:
    """The place is the first of its kind: a parameter of the same text comes later."""
    data = bytes(at % 251 for at in range(size))
    told = {"a": 1, "url": "data:x/y;base64,", "more": {"url": "data:x/y;base64,"}}
    made = Base64Json(json.dumps(told).encode(), b'"data:x/y;base64,"', stored(data))
    pieces = [piece async for piece in made.chunks()]
    assert json.loads(b"".join(pieces)) == told | {
        "url": f"data:x/y;base64,{base64.b64encode(data).decode()}"
    }
    assert sum(map(len, pieces)) == made.size
    assert max(map(len, pieces)) < 400_000


@pytest.mark.parametrize("text", ["", 'ein K\u00e4fer \U0001fab2\n"', "\x7f\x00" * 400_000])
@pytest.mark.parametrize("shift", [0, 1, 2, 3])
async def test_a_text_is_the_same_as_in_one_piece(text: str, shift: int) -> None:
    """Also where a character of several bytes, or what is no UTF-8, lies across two pieces."""
    data = b"x" * (BATCH_BYTES - shift) + text.encode() + b"\xff\xf0\x9f"
    told = {"a": 1, "text": "", "more": {"text": ""}}
    made = TextJson(dumps(told), b'"text":""', stored(data))
    pieces = [piece async for piece in made.chunks()]
    assert json.loads(b"".join(pieces)) == told | {"text": data.decode(errors="replace")}
    assert max(map(len, pieces)) <= 6 * BATCH_BYTES
