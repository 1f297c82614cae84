"""Files written as base64 or as a data URL, decoded piece by piece."""

from __future__ import annotations

import asyncio
import binascii
import re
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from typing import Final

from comfy_proxy.errors import InvalidFieldError

_PIECE: Final = 1_048_576
"""Characters decoded at once in a thread; the next ones follow when the decoded were taken."""
_DATA_URL = re.compile(
    r"data:(?:(?:image|video|audio|model|application)/[\w.+-]+)?(?:;[^;,]*)*;base64,", re.I
)
_SPACE: Final = str.maketrans("", "", " \t\r\n")


async def decode_file(text: str, *, field: str, executor: Executor) -> AsyncIterator[bytes]:
    """The bytes of ``text`` (base64 or a data URL) in pieces; white space in it is ignored.

    Raises InvalidFieldError naming ``field``: ``invalid_data_url``, ``invalid_base64``.
    """
    loop = asyncio.get_running_loop()
    start = _payload_start(text, field)
    carried = ""
    for at in range(start, len(text), _PIECE):
        last = at + _PIECE >= len(text)
        piece = text[at : at + _PIECE]
        data, carried = await loop.run_in_executor(executor, _decode, carried, piece, last, field)
        yield data


def _payload_start(text: str, field: str) -> int:
    if text[:5].lower() != "data:":
        return 0
    match = _DATA_URL.match(text[:1024])
    if match is None:
        message = f"The data URL in {field} must be like data:image/png;base64,…"
        raise InvalidFieldError(field, message, code="invalid_data_url")
    return match.end()


def _decode(carried: str, piece: str, last: bool, field: str) -> tuple[bytes, str]:
    """Whole groups of four characters → bytes, and the rest, to be put before the next piece."""
    text = carried + piece.translate(_SPACE)
    whole = len(text) if last else len(text) // 4 * 4
    padding = text.find("=")
    if padding >= 0 and not last:  # it must end the text: held back until the end is seen
        whole = padding // 4 * 4
    try:
        if len(text) - whole > 4:
            raise ValueError("there is text behind the padding")
        return binascii.a2b_base64(text[:whole], strict_mode=True), text[whole:]
    except ValueError:  # binascii.Error is one
        message = f"The file in {field} is not base64."
        raise InvalidFieldError(field, message, code="invalid_base64") from None
