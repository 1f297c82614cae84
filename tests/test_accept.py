"""``Accept`` as RFC 9110 (12.5.1) reads it, and what clients send that it does not foresee."""

from __future__ import annotations

import pytest

from comfy_proxy.accept import Accept, MediaRange, highest

EXAMPLE = (
    "text/*;q=0.3, text/plain;q=0.7, text/plain;format=flowed, "
    "text/plain;format=fixed;q=0.4, */*;q=0.5"
)
"""The example of RFC 9110, 12.5.1."""


@pytest.mark.parametrize(
    ("media_type", "parameters", "q"),
    [
        ("text/plain", {"format": "flowed"}, 1.0),
        ("text/plain", {"format": "other"}, 0.7),
        ("text/html", {}, 0.3),
        ("image/jpeg", {}, 0.5),
        ("text/plain", {"format": "fixed"}, 0.4),
        ("text/html", {"level": "3"}, 0.3),
    ],
)
def test_the_closest_range_counts(media_type: str, parameters: dict[str, str], q: float) -> None:
    """Whatever its place in the header: type and parameters, type, ``text/*``, ``*/*``."""
    assert Accept(EXAMPLE).quality(media_type, **parameters) == q
    backwards = ", ".join(reversed(EXAMPLE.split(", ")))
    assert Accept(backwards).quality(media_type, **parameters) == q


@pytest.mark.parametrize(
    ("header", "q"),
    [
        ("", 1),
        (" ,, ;q=0,", 1),
        ("*/*", 1),
        ("a/b", 1),
        ("A/B", 1),
        ("a/b;Q=0.5", 0.5),
        ("a/b ; q = 0.5", 0.5),
        ("a/b;q=.5", 0.5),
        ("a/b;q=0", 0),
        ("a/b;q=0, */*", 0),
        ("a/*;q=0, */*", 0),
        ("a/b;q=7", 1),
        ("a/b;q=strange", 0),
        ("a/b;q=-1", 0),
        ("a/b;q=nan", 0),
        ("a/b;q=1e0", 0),
        ("a/b;q=" + "9" * 400, 1),
        ("a/b;q=0.2, a/b;q=0.4", 0.4),
        ("a/b;x=1;q=0.2", 0.2),
        ("a/b;v=1;q=0.2", 0.2),
        ("a/b;v=2;q=0.2", 0),
        ("a/b;v=2, a/*;q=0.3", 0.3),
        ('a/b;v="1";q=0.4', 0.4),
        ('a/b;v="1,a/b;q=0.9";q=0.4, a/*;q=0.1', 0.1),
        ('a/b;x="\\"";q=0.4', 0.4),
        ('a/b;x="not closed, a/b', 1),
        ("a", 1),
        ("a/c", 0),
        ("*;q=0.2, a/*;q=0.3", 0.3),
    ],
)
def test_a_quality(header: str, q: float) -> None:
    """Of ``a/b;v=1``. Nonsense is passed over; without anything in it the header allows all."""
    assert Accept(header).quality("a/b", v="1") == q


@pytest.mark.parametrize(
    ("header", "q"),
    [
        ("", 1),
        ("image/png", 1),
        ("image/png;q=0.3, image/jpeg;q=0.4", 0.4),
        ("image/png;q=0, image/*;q=0.4", 0.4),
        ("image/png;q=0, */*;q=0.4", 0.4),
        ("image/*;q=0, */*", 0),
        ("image/*;q=0, image/png;q=0.1", 0.1),
        ("text/html", 0),
    ],
)
def test_the_best_of_a_kind(header: str, q: float) -> None:
    """A client that takes one kind of picture takes a picture."""
    assert Accept(header).best_of("image") == q


def test_who_names_a_type() -> None:
    """Those that would take anything are not among them."""
    taken = Accept("a/b;v=2;q=0.5, A/B, a/*, */*")
    assert list(taken.naming("a/b")) == [
        MediaRange(media_type="a/b", parameters={"v": "2"}, q=0.5),
        MediaRange(media_type="a/b"),
    ]
    assert highest(taken.naming("a/b")) == 1
    assert highest(taken.naming("b/b")) == 0
