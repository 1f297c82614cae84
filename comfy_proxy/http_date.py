"""The date of an HTTP header (RFC 9110, 5.6.7), written by whoever is at the other end."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def read_http_date(text: str) -> datetime | None:
    """The moment that ``text`` means, one without a zone in UTC; None for anything else: a word, or
    a date whose year or zone no date can have."""
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
