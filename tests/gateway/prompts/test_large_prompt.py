"""A large ``POST /prompt`` is looked through, not parsed: what we need of it is found."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from comfy_proxy.gateway.prompts import large_prompt
from comfy_proxy.gateway.prompts.large_prompt import MAX_VALUE_BYTES, outline

LONG = "x" * (MAX_VALUE_BYTES + 1)


def outlined(body: bytes | dict[str, Any]) -> Any:
    return outline(io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode()))


def test_what_is_small_is_as_it_was() -> None:
    """Ids, number, classes, names of files, links, lists, objects, and what is no node."""
    body = {
        "client_id": "c",
        "number": -3,
        "front": True,
        "prompt": {
            "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}, "_meta": {"t": "x"}},
            "2": {"class_type": "Save", "inputs": {"images": ["1", 0], "l": {"lora": "m"}}},
            "3": None,
            "4": [1],
        },
        "extra_data": {"preview_method": "auto"},
        "prompt_id": "p",
    }
    assert outlined(body) == body


def test_what_is_large_is_null_wherever_it_stands() -> None:
    """A picture as base64, a mask as numbers, the frontend's workflow."""
    body = {
        "prompt": {
            "1": {"class_type": "A", "inputs": {"a": LONG, "seed": 1, "b": [0] * 9000, "c": "x"}},
            "2": {"class_type": "B", "inputs": {"c": "y"}, "_meta": {"note": LONG}},
            "3": LONG,
        },
        "extra_data": {"workflow": LONG},
        "prompt_id": "p",
    }
    assert outlined(body) == {
        "prompt": {
            "1": {"class_type": "A", "inputs": {"a": None, "seed": 1, "b": None, "c": "x"}},
            "2": {"class_type": "B", "inputs": {"c": "y"}, "_meta": None},
            "3": None,
        },
        "extra_data": {},
        "prompt_id": "p",
    }


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ({"extra_pnginfo": {"workflow": LONG}, "client_id": "c\xe9"}, {"client_id": "c\xe9"}),
        ({"client_id": [LONG]}, {"client_id": []}),
        ({"client_id": {"a": 1}, "b": LONG}, {"client_id": {}}),
        ({"client_id": LONG * 20}, {"client_id": None}),
        ({"a": {"client_id": "other"}, "b": LONG}, {}),
        ([LONG, "client_id"], []),
        (LONG, None),
    ],
)
def test_the_client_in_a_large_extra_data_is_left(extra: Any, told: Any) -> None:
    """ComfyUI sends the prompt's events to it if the body names no client beside; one that is no
    name, and what is no object, stops it (``stopping_values.py``)."""
    assert outlined({"prompt": {}, "extra_data": extra}) == {"prompt": {}, "extra_data": told}


def test_a_large_client_is_of_its_kind() -> None:
    assert outlined({"prompt": {}, "client_id": [LONG]})["client_id"] == []
    assert outlined({"prompt": {}, "client_id": LONG})["client_id"] is None


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'"x"', b'{"a": 1', b'{"a": 1} x', b"\xef\xbb\xbf{}", b'{"prompt": {"1": }}'],
)
def test_what_we_cannot_read_is_none(body: bytes) -> None:
    """It goes to one instance, whose answer is the client's."""
    assert outlined(body) is None


def test_very_many_small_values_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded whatever comes."""
    body = {"prompt": {str(n): {"class_type": "A", "inputs": {"seed": n}} for n in range(100)}}
    assert outlined(body) == body
    monkeypatch.setattr(large_prompt, "MAX_REST_BYTES", 1000)
    assert outlined(body) is None
    monkeypatch.undo()
    monkeypatch.setattr(large_prompt, "MAX_FOUND_BYTES", 1000)
    assert outlined(body) is None
