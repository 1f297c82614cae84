"""JSON that comes from instances, read as leniently as ComfyUI writes it.

ComfyUI's JSON is Python's ``json``, which is more than RFC 8259 allows: ``NaN`` and ``Infinity``,
integers of any size, and lone surrogates (``"caf\\udce9.png"``: a file name that is no UTF-8 on the
disk). orjson refuses such a document as a whole, so one odd name or number in it would hide all
the rest.

* :func:`loads` and :func:`dumps` are for what is looked at here and for our own answers: orjson,
  and ``json`` only where orjson refuses.
* :func:`loads_exact` and :func:`dumps_exact` are for what goes on to a client as ComfyUI would
  write it: ``json`` both ways, so the same text comes out that went in. (orjson makes a float of an
  integer beyond 64 bits, and ``null`` of NaN.)

A text in which nothing is changed is not read at all, but passed on as bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import orjson

SORT_KEYS = orjson.OPT_SORT_KEYS
NON_STR_KEYS = orjson.OPT_NON_STR_KEYS


class TooDeepError(ValueError):
    """JSON that is nested more deeply than can be read here: some 900 brackets. A newer Python, at
    an instance, reads and writes several thousand."""


def loads(data: bytes | bytearray | str) -> Any:
    """The value of a JSON text; an integer beyond 64 bits may come out as a float.

    Raises ValueError for a text that Python's ``json`` refuses too, or that is nested too deeply.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return loads_exact(data)


def loads_exact(data: bytes | bytearray | str) -> Any:
    """As :func:`loads`, with integers of any size; :func:`dumps_exact` gives the text back."""
    try:
        return json.loads(data if isinstance(data, str) else decoded(data))
    except RecursionError as error:
        raise TooDeepError("The JSON is nested too deeply.") from error


def decoded(data: bytes | bytearray) -> str:
    """UTF-8 as text; other bytes become lone surrogates, as in Python's file names. No errors."""
    try:
        return data.decode("utf-8", "surrogatepass")  # as json.loads decodes bytes
    except UnicodeDecodeError:
        return data.decode("utf-8", "surrogateescape")


def dumps(data: Any, *, default: Callable[[Any], Any] | None = None, option: int = 0) -> bytes:
    """``data`` as JSON by RFC 8259, without blanks: every client can read it.

    NaN and the infinities become ``null``, a lone surrogate its escape (``\\udce9``). ``option``:
    SORT_KEYS, NON_STR_KEYS. Raises TypeError for an object that ``default`` cannot convert either.
    """
    try:
        return orjson.dumps(data, default=default, option=option)
    except TypeError:  # a lone surrogate, or an integer beyond 64 bits
        plain, sort = _plain(data), bool(option & SORT_KEYS)
        text = json.dumps(
            plain,
            default=lambda value: _as_orjson(value, default),
            sort_keys=sort,
            separators=(",", ":"),
            allow_nan=False,
        )
        return text.encode()


def dumps_exact(data: Any) -> bytes:
    """``data`` as ComfyUI writes it: blanks after commas, NaN, ASCII with escapes."""
    return json.dumps(data).encode()


def _as_orjson(value: Any, default: Callable[[Any], Any] | None) -> Any:
    """What orjson can write by itself and ``json`` cannot (a time, a UUID), else by ``default``."""
    try:
        return orjson.loads(orjson.dumps(value))
    except TypeError:
        if default is None:
            raise
        return default(value)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) else str(key): _plain(one) for key, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    return value
