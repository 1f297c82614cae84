"""What a client's ``Accept-Encoding`` means (RFC 9110 12.5.3)."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from comfy_proxy.gateway.exchange.accept_encoding import accepts_gzip, chosen_coding


@pytest.mark.parametrize(
    ("text", "coding"),
    [
        ("gzip, deflate, br, zstd", "br"),
        ("gzip", "gzip"),
        ("GZip", "gzip"),
        ("x-gzip", "gzip"),
        (" gzip ; q = 0.5 ", "gzip"),
        ("br;q=0.5, gzip;q=0.8", "gzip"),
        ("br;q=0.8,gzip;q=0.8", "br"),
        ("*", "br"),
        ("br;q=0, *", "gzip"),
        ("br;q=0, *;q=0.1", "gzip"),
        ("*;q=0", None),
        ("*;q=0, gzip;q=0.001", "gzip"),
        ("gzip;q=0.000", None),
        ("gzip;q=2", None),
        ("gzip;q=nan", None),
        ("gzip;q=", None),
        ("gzip;level=9", None),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip", "gzip"),
        ("identity;q=0", None),
        ("identity;q=0, gzip", "gzip"),
        ("zstd, deflate", None),
        (",,;,", None),
        ("", None),
    ],
)
def test_the_heaviest_is_chosen(text: str, coding: str | None) -> None:
    """Of equals the one that we like best; none where all are refused or identity is preferred."""
    request = make_mocked_request("GET", "/", headers={"Accept-Encoding": text})
    assert chosen_coding(request, ("br", "gzip")) == coding


def test_who_says_nothing_gets_none() -> None:
    request = make_mocked_request("GET", "/")
    assert chosen_coding(request, ("br", "gzip")) is None
    assert not accepts_gzip(request)


def test_several_headers_are_one() -> None:
    request = make_mocked_request(
        "GET", "/", headers=[("Accept-Encoding", "br;q=0"), ("Accept-Encoding", "gzip")]
    )
    assert chosen_coding(request, ("br", "gzip")) == "gzip"
