"""URLs of ``/view`` name the instance, cursors come back as they went; without I/O."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from comfy_proxy.gateway.assets.cursor import Cursor, Order
from comfy_proxy.gateway.assets.marks import marked
from comfy_proxy.gateway.files.file_name import FILE_TYPES
from comfy_proxy.gateway.files.shared_storage import SharedStorage


def mark(data: Any, *, common: bool = False) -> Any:
    instance: Any = SimpleNamespace(mark="2")
    return marked(data, instance, SharedStorage(FILE_TYPES if common else frozenset()))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("/api/view?type=output&filename=a.png", "&subfolder=%402"),
        ("/view?filename=a.png", "&subfolder=%402"),
        ("/api/view?filename=a.png%20[temp]", "&subfolder=%402"),
        ("http://x/y/view?filename=a.png", "&subfolder=%402"),
        ("/api/view?type=input&filename=a.png", ""),
        ("/api/view?type=models&filename=a.png", ""),
        ("/api/view?type=output&filename=a..png", ""),
        ("/api/view?type=output&filename=blake3%3A00", ""),
        ("/api/view?type=output", ""),
        ("/api/viewer?type=output&filename=a.png", ""),
        ("the view? no", ""),
    ],
)
def test_urls_of_results_are_marked(url: str, shown: str) -> None:
    """All else is left as it is."""
    assert mark({"preview_url": url}) == {"preview_url": url + shown}


def test_a_subfolder_keeps_its_place() -> None:
    """In the query, behind the mark."""
    url = "/api/view?type=output&subfolder=a%20b%2Fc&filename=x.png"
    assert mark(url) == "/api/view?type=output&subfolder=%402/a%20b/c&filename=x.png"


def test_what_clients_wrote_is_theirs() -> None:
    """And nothing is marked where all share the directory."""
    url = "/api/view?type=output&filename=a.png"
    for name in ("user_metadata", "metadata", "name", "tags"):
        assert mark({name: {"x": url}}) == {name: {"x": url}}
    assert mark([{"preview_url": url}], common=True) == [{"preview_url": url}]


def test_a_cursor_comes_back() -> None:
    """With odd names too; one that is too long for a request line goes without its pages."""
    order = Order(sort="name", descending=True)
    cursor = Cursor(order=order, last=["caf\udce9", "id"], pages={"1": None, "2": "abc"})
    assert Cursor.of(cursor.text()) == cursor
    pages = {str(number): "x" * 700 for number in range(8)}
    long = Cursor(order=order, last=["a", "id"], pages=pages)
    assert Cursor.of(long.text()) == Cursor(order=order, last=["a", "id"], pages={})
    assert len(long.text()) < 4096


def test_a_cursor_may_say_anything() -> None:
    """Nobody but us makes them, but anybody can: no number is too large, and NaN has a place."""
    order = Order(sort="size", descending=True)
    for value in (10**400, -(10**400), math.inf, math.nan, True, None, [], {}):
        assert Cursor.of(Cursor(order=order, last=[value, 5], pages={}).text()) is not None
        key = order.passed([value, 5])
        assert not order.is_behind(key, key)
    assert order.passed([-(10**400), "a"]) < order.passed([0, "a"]) < order.passed([10**400, "a"])


def test_what_is_too_deep_has_no_url_of_ours() -> None:
    deep: Any = {"preview_url": "/api/view?type=output&filename=a.png"}
    for _ in range(900):
        deep = [deep]
    assert mark(deep) == deep


@pytest.mark.parametrize(
    "text", ["", "~", "x", "~e30", "~WzFd", "~é", "~WyJuYW1lIix0cnVlLFtdLHt9XQ"]
)
def test_what_is_no_cursor_of_ours(text: str) -> None:
    """An instance is to refuse it."""
    assert Cursor.of(text) is None


def test_a_cursor_whose_pages_no_instance_can_have_made_is_none_of_ours() -> None:
    order = Order(sort="name", descending=True)
    for page in ("\ud800", "é"):
        assert Cursor.of(Cursor(order=order, last=["a", "b"], pages={"1": page}).text()) is None


def test_a_subfolder_without_bytes_in_utf_8_is_marked() -> None:
    url = "/api/view?filename=a.png&type=output&subfolder=caf\udce9"
    assert mark(url) == "/api/view?filename=a.png&type=output&subfolder=%402/caf%E9"
