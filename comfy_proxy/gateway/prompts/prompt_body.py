"""The body of ``POST /prompt``: read as ComfyUI reads it, and added to without being rewritten.

ComfyUI decodes it by the ``charset`` of its Content-Type, UTF-8 without one, and takes JSON as
Python does: NaN, integers of any size, lone surrogates. Pure.
"""

from __future__ import annotations

import codecs
import json
from typing import Any

import orjson

UTF_8 = "utf-8"


def document(body: bytes, charset: str = UTF_8) -> dict[str, Any] | None:
    """The JSON object in ``body``; None if it is none, or if nothing could be added to it."""
    try:
        read = _loads(body, charset)
    except (ValueError, LookupError, RecursionError):
        return None
    return read if isinstance(read, dict) else None


def with_first(body: bytes, charset: str, key: str, value: Any) -> bytes:
    """``body``, which is a :func:`document`, with ``key`` before all others."""
    text = f'"{key}": {json.dumps(value)}, '
    if _is_utf_8(charset):
        at = body.index(b"{") + 1
        return body[:at] + text.encode() + body[at:]
    before, brace, after = body.decode(charset).partition("{")
    return f"{before}{brace}{text}{after}".encode(charset)


def with_last(body: bytes, charset: str, key: str, value: Any) -> bytes:
    """``body``, which is a :func:`document`, with ``key`` after all others: it wins."""
    text = f', "{key}": {json.dumps(value)}'
    if _is_utf_8(charset):
        at = body.rindex(b"}")
        return body[:at] + text.encode() + body[at:]
    before, brace, after = body.decode(charset).rpartition("}")
    return f"{before}{text}{brace}{after}".encode(charset)


def _loads(body: bytes, charset: str) -> Any:
    if not _is_utf_8(charset):
        text = body.decode(charset)
        if text.encode(charset).decode(charset) != text:
            raise ValueError(f"{charset} cannot be written as it was read.")
        return json.loads(text)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body.decode())


def _is_utf_8(charset: str) -> bool:
    return codecs.lookup(charset).name == UTF_8
