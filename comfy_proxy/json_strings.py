"""A long string of a JSON text, read some kilobytes at a time.

To read one of 12 MB at once, as the base64 of a picture is, takes 50 ms, and with an escape for
each character 300 ms and more; nobody else has a turn meanwhile, also if a thread does it.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Final

from comfy_proxy.json_listing import end_of
from comfy_proxy.lenient_json import loads_exact

PIECE_BYTES: Final = 16_384
"""Bytes of text that are read at once; with an escape for each character that takes 1 ms."""
_WHOLE = re.compile(
    rb'[^"\\]*+(?>(?:\\(?:u[0-9a-fA-F]{4}|[^u])[^"\\]*+)*)',
    re.DOTALL,
)
"""As much of a string as has no half an escape at its end."""


def pieces_of_string(text: bytes, at: int) -> Generator[str, None, int]:
    """The parts of the string whose first character stands at ``at``, behind the quote. Returns
    where its last quote is.

    Raises ValueError for what is no string of JSON.
    """
    high = ""
    while True:
        end = _whole_characters(text, end_of(_WHOLE, text, at, at + PIECE_BYTES))
        if end > at:
            piece, high = _joined(high, loads_exact(b'"' + text[at:end] + b'"'))
            yield piece
        elif text[at : at + 1] == b'"':
            if high:
                yield high
            return at
        else:
            raise ValueError("A string in the JSON does not end, or has a wrong escape.")
        at = end


def _whole_characters(text: bytes, end: int) -> int:
    """``end``, or before it where a character of several bytes begins that goes on beyond it."""
    for at in range(end, max(end - 4, 0), -1):
        if at == len(text) or text[at] & 0xC0 != 0x80:
            return at
    return end


def _joined(high: str, piece: str) -> tuple[str, str]:
    """``piece`` behind ``high``, which is a first surrogate or nothing, and the first surrogate at
    its end if the second may come with the next piece: the two are one character."""
    if high and "\udc00" <= piece[0] <= "\udfff":
        pair = high.encode("utf-16-le", "surrogatepass") + piece[0].encode(
            "utf-16-le", "surrogatepass"
        )
        piece = pair.decode("utf-16-le") + piece[1:]
    else:
        piece = high + piece
    is_open = "\ud800" <= piece[-1] <= "\udbff"
    return (piece[:-1], piece[-1]) if is_open else (piece, "")
