"""The text of a template or a mapping, and what it says as JSON or TOML.

What cannot be read raises :class:`UnreadableError`, whose message is told behind the file's name.
"""

from __future__ import annotations

import codecs
import tomllib
from importlib.resources.abc import Traversable
from typing import Any, Final

import orjson

from comfy_proxy.lenient_json import loads_exact

MAX_TEMPLATE_BYTES: Final = 8 * 2**20
"""Bytes of a template; a longer one is no workflow. Its graph is copied for each job, and looked at
for each instance, while the event loop does nothing else."""
_UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class UnreadableError(ValueError):
    """Why the text of a file cannot be used, in words."""


def read_json(file: Traversable) -> Any:
    """The value of JSON by RFC 8259, each integer exact. Raises UnreadableError."""
    text = _text(file)
    try:
        orjson.loads(text)  # refuses NaN and half surrogate pairs, and rounds integers
        return loads_exact(text)
    except ValueError as error:
        raise UnreadableError(f"is not JSON: {error}") from error


def read_toml(file: Traversable) -> dict[str, Any]:
    """The tables of a TOML file. Raises UnreadableError."""
    try:
        return tomllib.loads(_text(file))
    except RecursionError as error:
        raise UnreadableError("is nested too deeply") from error
    except tomllib.TOMLDecodeError as error:
        raise UnreadableError(f"is not TOML: {error}") from error


def because(error: OSError) -> str:
    """Why a file or a directory cannot be read, without its path."""
    return f"cannot be read: {error.strerror or error}"


def _text(file: Traversable) -> str:
    """Without the mark at the beginning by which Windows' editors tell UTF-8."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_TEMPLATE_BYTES + 1)
    except OSError as error:
        raise UnreadableError(because(error)) from error
    if len(data) > MAX_TEMPLATE_BYTES:
        raise UnreadableError(f"is longer than {MAX_TEMPLATE_BYTES} bytes")
    if data.startswith(_UTF_16) or b"\0" in data[:2]:
        raise UnreadableError("is UTF-16; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableError("is not UTF-8; save it as that") from error
