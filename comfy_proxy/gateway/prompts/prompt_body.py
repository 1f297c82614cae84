"""The body of ``POST /prompt``: read as ComfyUI reads it, and added to without being rewritten.

ComfyUI decodes it by the ``charset`` of its Content-Type, UTF-8 without one, and takes JSON as
Python does: NaN, integers of any size, lone surrogates. Pure.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
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


def client_id(document: Mapping[str, Any]) -> str | None:
    """The clientId to which ComfyUI sends the prompt's events: ``client_id``, which wins whatever
    it is, else the one in ``extra_data``. None if that is no text: then nobody gets any."""
    extra = document.get("extra_data")
    within = extra.get("client_id") if isinstance(extra, dict) else None
    told = document.get("client_id", within)
    return told if isinstance(told, str) else None


def with_first(body: bytes, charset: str, key: str, value: Any) -> bytes:
    """``body``, which is a :func:`document`, with ``key`` before all others."""
    text = f'"{key}": {json.dumps(value)}, '
    if is_utf_8(charset):
        at = body.index(b"{") + 1
        return _with(body, at, text)
    before, brace, after = body.decode(charset).partition("{")
    return f"{before}{brace}{text}{after}".encode(charset)


def with_last(body: bytes, charset: str, key: str, value: Any) -> bytes:
    """``body``, which is a :func:`document`, with ``key`` after all others: it wins."""
    text = f', "{key}": {json.dumps(value)}'
    if is_utf_8(charset):
        at = body.rindex(b"}")
        return _with(body, at, text)
    before, brace, after = body.decode(charset).rpartition("}")
    return f"{before}{text}{brace}{after}".encode(charset)


def _with(body: bytes, at: int, text: str) -> bytes:
    """Copied once: it may have 95 MB."""
    whole = memoryview(body)
    return b"".join((whole[:at], text.encode(), whole[at:]))


def _loads(body: bytes, charset: str) -> Any:
    if not is_utf_8(charset):
        text = body.decode(charset)
        if text.encode(charset).decode(charset) != text:
            raise ValueError(f"{charset} cannot be written as it was read.")
        return json.loads(text)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body.decode())


def is_utf_8(charset: str) -> bool:
    """Whether it is UTF-8 by one of its names."""
    try:
        return codecs.lookup(charset).name == UTF_8
    except (LookupError, ValueError):
        return False
