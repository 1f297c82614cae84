"""Dates of HTTP headers."""

from datetime import UTC, datetime

import pytest

from comfy_proxy.http_date import read_http_date


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 -0000",
        "6 Nov 1994 09:49:37 +0100",
    ],
)
def test_a_date(text: str) -> None:
    assert read_http_date(text) == datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "Sun, 06 Nov 99999999999999999999 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 +99999999999999999999",
        "Sun, 99999999999999999999 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 +9999",
    ],
)
def test_no_date(text: str) -> None:
    """Whatever stands there: no error, and none of Python's number limits, reaches the caller."""
    assert read_http_date(text) is None
