"""Files written as base64 or as a data URL, decoded piece by piece."""

from __future__ import annotations

import asyncio
import binascii
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Executor
from typing import Final

from comfy_proxy.errors import InvalidFieldError
from comfy_proxy.json_strings import PIECE_BYTES

_PIECE: Final = 1_048_576
"""Characters decoded at once in a thread; the next ones follow when the decoded were taken."""
_DATA_URL = re.compile(
    r"data:(?:(?:image|video|audio|model|application)/[\w.+-]+)?(?:;[^;,]*)*;base64,", re.I
)
_SPACE: Final = str.maketrans("", "", " \t\r\n")


class LongText:
    """A text in its parts, of some kilobytes each: to join 100 MB of them takes 50 ms, in which
    nobody else has a turn."""

    def __init__(self, parts: Sequence[str]) -> None:
        self._parts = parts

    def joined(self) -> str:
        """All of it."""
        return "".join(self._parts)

    def pieces(self) -> Iterator[str]:
        """Its parts, joined to such a length that decoding one is worth a hop to a thread."""
        several = max(1, _PIECE // PIECE_BYTES)
        for at in range(0, len(self._parts), several):
            yield "".join(self._parts[at : at + several])


async def decode_file(
    text: str | LongText, *, field: str, executor: Executor
) -> AsyncIterator[bytes]:
    """The bytes of ``text`` (base64 or a data URL) in pieces; white space in it is ignored.

    Raises InvalidFieldError naming ``field``: ``invalid_data_url``, ``invalid_base64``.
    """
    loop = asyncio.get_running_loop()
    pieces = text.pieces() if isinstance(text, LongText) else _cut(text)
    piece, carried = next(pieces, ""), ""
    piece = piece[_payload_start(piece, field) :]
    while piece:
        following = next(pieces, "")
        data, carried = await loop.run_in_executor(
            executor, _decode, carried, piece, not following, field
        )
        yield data
        piece = following


def _cut(text: str) -> Iterator[str]:
    for at in range(0, len(text), _PIECE):
        yield text[at : at + _PIECE]


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
