"""ComfyUI's JSON is Python's: what it writes is read here, and what we write anybody can read."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from comfy_proxy.lenient_json import (
    NON_STR_KEYS,
    SORT_KEYS,
    decoded,
    dumps,
    dumps_exact,
    loads,
    loads_exact,
)

ODD: dict[str, Any] = {"caf\udce9.png": [float("inf"), -(2**70), "\ud800", 1.5, None, True, "ä"]}


@pytest.mark.parametrize("read", [loads, loads_exact])
def test_what_python_writes_is_read(read: Any) -> None:
    """NaN, integers of any size and lone surrogates, as text and as bytes."""
    text = json.dumps(ODD)
    assert read(text) == read(text.encode()) == read(bytearray(text.encode())) == ODD
    assert math.isnan(read("NaN"))


def test_an_exact_reading_is_written_as_it_came() -> None:
    """Blanks, escapes, NaN and limits beyond 64 bits: byte for byte."""
    text = json.dumps({**ODD, "min": -0xFFFFFFFFFFFFFFFF, "x": float("nan"), "é": 1e-9}).encode()
    assert dumps_exact(loads_exact(text)) == text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"caf\xc3\xa9", "café"),
        (b"caf\xe9", "caf\udce9"),
        (b"\xed\xb3\xa9", "\udce9"),  # the surrogate itself, as Python's json reads it
        (b"\xed\xb3\xa9\xff", "\udced\udcb3\udca9\udcff"),
    ],
)
def test_bytes_that_are_no_utf8_are_text_as_in_file_names(raw: bytes, text: str) -> None:
    """Nothing raises, and no byte is lost."""
    assert decoded(raw) == text
    assert loads(b'"%s"' % raw) == text


@pytest.mark.parametrize("text", ["", "{", "<html>", b"\xff", "[" * 100_000, "{'a': 1}"])
def test_what_is_no_json_is_a_value_error(text: Any) -> None:
    """Nested beyond the interpreter's depth too."""
    for read in (loads, loads_exact):
        with pytest.raises(ValueError, match=r"."):
            read(text)


def test_what_we_write_is_json_by_the_standard() -> None:
    """A browser reads it: no NaN, and a lone surrogate is an escape."""

    def refuse(_constant: str) -> None:
        raise AssertionError

    written = dumps({"a": ODD, "b": (float("nan"), 1), 3: 4}, option=NON_STR_KEYS)
    assert written.isascii()
    expected = {"caf\udce9.png": [None, *ODD["caf\udce9.png"][1:]]}
    data = json.loads(written, parse_constant=refuse)
    assert data == {"a": expected, "b": [None, 1], "3": 4}


@dataclass
class _Odd:
    text: str
    number: float


def test_what_orjson_writes_by_itself_is_written_beside_odd_data_too() -> None:
    """A time, a UUID and a dataclass look the same, whatever else is in the document."""
    moment, made = datetime(2026, 1, 1, tzinfo=UTC), UUID(int=1)
    plain = {"a": moment, "b": made, "c": _Odd("x", 1.5)}
    assert json.loads(dumps(plain | {"d": "\ud800"})) == json.loads(dumps(plain)) | {"d": "\ud800"}
    odd = dumps({"a": _Odd("\ud800", float("nan")), "b": moment})
    assert json.loads(odd) == {
        "a": {"text": "\ud800", "number": None},
        "b": "2026-01-01T00:00:00+00:00",
    }


def test_options_count_for_odd_data_too() -> None:
    """Sorted keys, and whatever ``default`` makes of a value."""
    for text, shown in (("x", "x"), ("\ud800", "\\ud800")):
        written = dumps({"b": text, "a": {1j}}, default=str, option=SORT_KEYS)
        assert written == b'{"a":"{1j}","b":"%s"}' % shown.encode()
    with pytest.raises(TypeError):
        dumps({"\ud800": object()})
