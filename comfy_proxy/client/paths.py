"""Names as parts of a path."""

from __future__ import annotations

from urllib.parse import quote

from comfy_proxy.client.errors import InvalidValueError


def segment(text: str, what: str) -> str:
    """``text``, which is ``what``, quoted as one part of a path.

    Raises InvalidValueError if it is none: empty or dots, which lead to another path (RFC 3986,
    5.2.4), or no Unicode.
    """
    if text in ("", ".", ".."):
        raise InvalidValueError(f"{text!r} is not {what}.")
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise InvalidValueError(f"{text!r} is not {what}: it is no Unicode.") from None
