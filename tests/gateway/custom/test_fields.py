"""gateway/custom/fields.py: how a request is read, and what of it may tell things apart."""

from __future__ import annotations

import pytest

from comfy_proxy.gateway.custom.fields import (
    MAX_FIELDS,
    body_fields,
    changed_query,
    is_telling,
    query_fields,
)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *[
            (name, "7", True)
            for name in ("id", "node", "node_id", "nodeId", "graph_id", "uuid", "key")
        ],
        *[(name, "7", False) for name in ("width", "video", "index", "n", "")],
        ("type", "temp", False),
        ("x", "picture", False),
        ("x", "picture-1", True),
        ("x", "a-long-name", True),
    ],
)
def test_what_tells_things_apart(name: str, value: str, expected: bool) -> None:
    assert is_telling(name, value) is expected


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"{", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"\xff\xfe", "text/plain"),
        (b"no form", "multipart/form-data"),
        (b"--x\r\nbroken", "multipart/form-data; boundary=x"),
        (b"", "application/x-www-form-urlencoded"),
        (b"\xff=%ff&&=", "application/x-www-form-urlencoded"),
    ],
)
def test_what_cannot_be_read_stays_as_it_is(raw: bytes, kind: str) -> None:
    assert body_fields(raw, kind).change(lambda name, value: value) == raw


def test_a_query_keeps_the_bytes_of_what_is_not_changed() -> None:
    target = "/p?a=%2f+x&b&c=@2/y&&d=%zz"
    assert query_fields(target) == [("a", "/ x"), ("b", ""), ("c", "@2/y"), ("d", "%zz")]
    new = changed_query(target, lambda name, value: "y z" if name == "c" else value)
    assert new == "/p?a=%2f+x&b&c=y%20z&&d=%zz"


def test_no_more_fields_are_looked_at_than_there_is_room_for() -> None:
    many = "{" + ",".join(f'"k{n}": "value {n}"' for n in range(3 * MAX_FIELDS)) + "}"
    assert len(body_fields(many.encode(), "application/json").fields) == MAX_FIELDS
    pairs = "&".join(f"k{n}=v{n}" for n in range(3 * MAX_FIELDS))
    kind = "application/x-www-form-urlencoded"
    assert len(body_fields(pairs.encode(), kind).fields) == MAX_FIELDS
    assert len(query_fields(f"/p?{pairs}")) == MAX_FIELDS


@pytest.mark.parametrize(
    ("start", "more", "kind"),
    [
        (b"", b"k=@2/x&", "application/x-www-form-urlencoded"),
        (b"", b'--x\r\nname="k"\r\n\r\n@2/x\r\n', "multipart/form-data; boundary=x"),
    ],
)
def test_a_form_made_of_crumbs_is_not_read_to_its_end(start: bytes, more: bytes, kind: str) -> None:
    """A mebibyte of them took most of a second; what is not looked at keeps its bytes."""
    raw = start + more * (2 * MAX_FIELDS)
    read = body_fields(raw, kind)
    asked: list[str] = []

    def change(name: str, value: str) -> str:
        asked.append(value)
        return "y"

    assert len(read.fields) <= MAX_FIELDS
    assert read.change(change).endswith(more * MAX_FIELDS)
    assert len(asked) <= MAX_FIELDS


def test_json_that_is_too_deep_to_be_written_again_stays_as_it_is() -> None:
    for depth in (900, 1000):
        raw = b'{"a": "@2/x", "b": ' + b"[" * depth + b"]" * depth + b"}"
        read = body_fields(raw, "application/json")
        assert read.fields == [("a", "@2/x")]
        assert read.change(lambda name, value: "x") == raw


def test_a_form_that_is_not_encoded_is_utf_8() -> None:
    read = body_fields("a=@2/é&b=ü".encode() + b"&c=\xff", "application/x-www-form-urlencoded")
    assert read.fields[:2] == [("a", "@2/é"), ("b", "ü")]
    assert read.change(lambda name, value: value.removeprefix("@2/")) == (
        b"a=%C3%A9&b=\xc3\xbc&c=\xff"
    )


def test_json_in_a_form_may_have_bytes_that_are_no_utf_8() -> None:
    """It is read as far as it can be; none of it is an error of ours."""
    form = "application/x-www-form-urlencoded"
    for raw in (b'a={"id": "\x8d"}', b"a={\x8d", b"\xff={"):
        body_fields(raw, form)
