"""json_nesting.py: how deep a text is nested, whatever is in its strings."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_proxy.json_nesting import Nesting

JSON = st.recursive(
    st.integers() | st.text('ab"\\[]{} \n\u00e9'),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('a"\\[}'), inner, max_size=3)
    ),
)


def deepest(*pieces: bytes) -> int:
    nesting = Nesting()
    for piece in pieces:
        nesting.feed(piece)
    return nesting.deepest


def levels(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(levels, inner), default=0)


@given(value=JSON, size=st.integers(1, 40), ascii_only=st.booleans())
def test_it_is_told_of_pieces_of_any_size(value: Any, size: int, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert deepest(*(text[at : at + size] for at in range(0, len(text), size))) == levels(value)


@pytest.mark.parametrize("text", [b"", b"]]}", b'"[[[', rb'"\"[[', b"[1]]][2]"])
def test_what_is_no_json_is_counted_as_far_as_it_goes(text: bytes) -> None:
    assert deepest(text) <= 1
