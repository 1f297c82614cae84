"""Parts of JSON texts are found wherever the pieces are cut, whatever stands in between."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from comfy_proxy import json_scanner
from comfy_proxy.json_scanner import ANY, TEXT, JsonScanner, Shape, Value

ENTRY: Shape = {b"prompt": {0: {}, 2: {}}, b"outputs": TEXT, b"x": {}}


def scanned(text: bytes, shape: Shape, *sizes: int) -> Value | None:
    """Fed in pieces of these sizes, then as a whole."""
    scanner, at = JsonScanner(shape), 0
    for size in (*sizes, len(text)):
        scanner.feed(text[at : at + size])
        at += size
    return scanner.result()


def part(text: bytes, value: Value | None) -> bytes:
    assert value is not None
    return text[value.start : value.end]


def random_value(rng: random.Random, depth: int) -> Any:
    kinds = ["text", "number", "literal", "list", "dict"] if depth else ["text", "number"]
    match rng.choice(kinds):
        case "text":
            letters = ["a", '"', "\\", "{", "]", ",", ":", "\n", "é", "\ud800", "x" * 50]
            return "".join(rng.choices(letters, k=rng.randrange(6)))
        case "number":
            return rng.choice([0, -1, 2**70, 1e-9, float("nan"), float("-inf"), 17])
        case "literal":
            return rng.choice([None, True, False])
        case "list":
            return [random_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {f"k{n}\\": random_value(rng, depth - 1) for n in range(rng.randrange(4))}


@pytest.mark.parametrize("seed", range(20))
def test_each_member_is_found_in_pieces_of_any_size(seed: int) -> None:
    """The bytes of a member are exactly what json makes of it, with NaN, escapes and brackets."""
    rng = random.Random(seed)
    data = {f"id{n}": random_value(rng, 6) for n in range(5)}
    text = json.dumps(data, indent=rng.choice([None, 2])).encode()
    sizes = [rng.choice([1, 2, 3, 7, 50]) for _ in range(len(text))]
    root = scanned(text, {ANY: {}}, *sizes)
    assert root is not None
    assert root.is_object
    assert root.members is not None
    assert [one.name() for one in root.members] == list(data)
    for one, expected in zip(root.members, data.values(), strict=True):
        assert json.dumps(json.loads(part(text, one))) == json.dumps(expected)
        if not isinstance(expected, dict | list):
            assert one.text == part(text, one)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_only_what_the_shape_names_is_looked_into(size: int) -> None:
    """Names and indexes lead inwards; a TEXT is kept whole; all else is a pair of positions."""
    text = b'{"a": {"prompt": [7, "a", {"1": {}}], "outputs": {"9": [1]}, "x": [1, 2]}, "b": null}'
    root = scanned(text, {ANY: ENTRY}, *[size] * (len(text) // size))
    assert root is not None
    entry, other = root.get(b"a"), root.get(b"b")
    assert entry is not None
    prompt, outputs, rest = (entry.get(name) for name in (b"prompt", b"outputs", b"x"))
    assert prompt is not None
    assert outputs is not None
    assert rest is not None
    number, graph = prompt.get(0), prompt.get(2)
    assert number is not None
    assert graph is not None
    assert (number.data(), graph.members, graph.text) == (7, None, None)
    assert (outputs.text, outputs.members) == (b'{"9": [1]}', None)
    assert (rest.members, rest.text, part(text, rest)) == (None, None, b"[1, 2]")
    assert other is not None
    assert (other.text, other.data(), prompt.get(1), prompt.get(b"a")) == (
        b"null",
        None,
        None,
        None,
    )


def test_bytes_that_are_no_utf8_hinder_nothing() -> None:
    """A raw byte becomes the lone surrogate that Python has for it in a file name."""
    root = scanned(b'{"caf\xe9": "\xff", "\\ud800": 1}', {ANY: {}})
    assert root is not None
    assert root.members is not None
    assert [one.name() for one in root.members] == ["caf\udce9", "\ud800"]
    assert root.members[0].data() == "\udcff"


@pytest.mark.parametrize(
    "text",
    [b"", b"  ", b"<!doctype html>", b'{"a": 1', b'{"a": "x', b"{} {}", b"]", b"broken", b"[1]]"],
)
def test_what_is_no_whole_value_has_none(text: bytes) -> None:
    """HTML, a text that ends too soon, two values: no result with members."""
    for size in (1, 100):
        root = scanned(text, {ANY: {}}, *[size] * len(text))
        assert root is None or root.members is None


def test_long_leaves_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture where a short text is expected costs no memory, and is stepped over."""
    monkeypatch.setattr(json_scanner, "MAX_LEAF_BYTES", 100)
    text = b'{"a": "%s", "%s": 1, "c": 2}' % (b"x" * 1000, b"y" * 1000)
    root = scanned(text, {ANY: {}}, *[64] * 40)
    assert root is not None
    assert root.members is not None
    assert [(one.key, one.text) for one in root.members] == [
        (b"a", None),
        (None, b"1"),
        (b"c", b"2"),
    ]
    assert [part(text, one)[-1:] for one in root.members] == [b'"', b"1", b"2"]


@pytest.mark.long
@pytest.mark.parametrize("size", [1, 64])
@pytest.mark.parametrize(
    ("text", "shape"),
    [
        (b"[" + b"0," * 1000 + b"0]", {ANY: {}}),
        (b'{"a": "%s"}' % (b"x" * 50_000), {ANY: TEXT}),
        (b'{"a": ["%s"]}' % (b"x" * 50_000), {ANY: TEXT}),
        (b'{"a": {"%s": 1}}' % b'": 1, "'.join([b"x" * 500] * 100), {ANY: {ANY: {}}}),
    ],
)
def test_what_is_found_has_a_limit_in_all(
    monkeypatch: pytest.MonkeyPatch, text: bytes, shape: Shape, size: int
) -> None:
    """Very many parts, and very long texts, fill no memory: then there is no result."""
    assert scanned(text, shape, *[size] * (len(text) // size)) is not None
    monkeypatch.setattr(json_scanner, "MAX_FOUND_BYTES", 40_000, raising=False)
    scanner = JsonScanner(shape)
    for start in range(0, len(text), size):
        scanner.feed(text[start : start + size])
    assert scanner.failed
    assert scanner.result() is None
