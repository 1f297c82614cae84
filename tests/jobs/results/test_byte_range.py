"""Ranges of bytes as RFC 9110 reads them."""

from __future__ import annotations

import pytest

from comfy_proxy.jobs.results.byte_range import (
    RangeNotSatisfiableError,
    asked_range,
    content_range,
)

ETAG = '"etag"'


@pytest.mark.parametrize(
    ("header", "places"),
    [
        ("bytes=0-9", range(10)),
        ("bytes=0-0", range(1)),
        ("Bytes= 90-99 ", range(90, 100)),
        ("bytes=90-", range(90, 100)),
        ("bytes=90-1000", range(90, 100)),
        ("bytes=0-" + "9" * 40, range(100)),
        ("bytes=-10", range(90, 100)),
        ("bytes=-1000", range(100)),
        # All of it: no range, several, or one that makes no sense (14.2: "MAY ignore").
        (None, None),
        ("", None),
        ("bytes=-", None),
        ("bytes=9-0", None),
        ("bytes=0-9,20-29", None),
        ("bytes=a-b", None),
        ("bytes=٠-٩", None),
        ("bytes=0-9" + "9" * 5000, None),
        ("lines=0-9", None),
        ("0-9", None),
    ],
)
def test_a_range_of_a_hundred_bytes(header: str | None, places: range | None) -> None:
    """From one place to another, from one on, or the last so many."""
    assert asked_range(header, None, etag=ETAG, size=100) == places


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_beyond_the_end(header: str) -> None:
    """The error has the size, for Content-Range."""
    with pytest.raises(RangeNotSatisfiableError) as caught:
        asked_range(header, None, etag=ETAG, size=100)
    assert caught.value.headers == {"Content-Range": "bytes */100"}


def test_nothing_has_no_part() -> None:
    """Of no bytes no range is there, not even of the last ones."""
    for header in ("bytes=0-", "bytes=-5"):
        with pytest.raises(RangeNotSatisfiableError):
            asked_range(header, None, etag=ETAG, size=0)


@pytest.mark.parametrize("condition", ['"other"', 'W/"etag"', "Sun, 06 Nov 1994 08:49:37 GMT", "*"])
def test_a_part_of_something_else_is_all_of_this(condition: str) -> None:
    """If-Range compares strongly (13.1.5), and comes before the look at the range."""
    assert asked_range("bytes=0-9", condition, etag=ETAG, size=100) is None
    assert asked_range("bytes=500-", condition, etag=ETAG, size=100) is None
    assert asked_range("bytes=0-9", ETAG, etag=ETAG, size=100) == range(10)


def test_what_is_sent_is_told() -> None:
    """The last place is counted in."""
    assert content_range(range(90, 100), 100) == "bytes 90-99/100"
