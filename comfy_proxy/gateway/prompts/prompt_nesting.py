"""How deep a prompt may be nested: one that is deeper would stop the instance that takes it."""

from __future__ import annotations

import codecs
from typing import Final

from comfy_proxy.errors import RequestError
from comfy_proxy.gateway.prompts.prompt_body import UTF_8, is_utf_8
from comfy_proxy.json_nesting import Nesting

MAX_NESTING: Final = 200
"""Brackets that may be open at once in the body of a prompt; with more it is refused. ComfyUI
copies what it takes from its queue by recursion: from some 490 on (0.3.75 under Python 3.11) that
ends the thread that runs prompts, and the instance answers, but runs nothing any more. A graph of
the frontend has ten at most."""


class PromptNesting:
    """Looks at one body while it comes in, whose text is in ``charset``."""

    def __init__(self, charset: str = UTF_8) -> None:
        self._nesting = Nesting()
        self._decoder = None if is_utf_8(charset) else _decoder(charset)

    def check(self, piece: bytes, error: type[RequestError] = RequestError) -> None:
        """Raises ``error`` if more than MAX_NESTING brackets are open at once, this piece
        included."""
        self._nesting.feed(piece if self._decoder is None else self._utf_8(self._decoder, piece))
        if self._nesting.deepest > MAX_NESTING:
            message = f"The prompt is nested more deeply than {MAX_NESTING} brackets."
            raise error(message, code="too_deeply_nested", details={"limit": MAX_NESTING})

    def _utf_8(self, decoder: codecs.IncrementalDecoder, piece: bytes) -> bytes:
        try:
            return decoder.decode(piece).encode("utf-8", "replace")
        except ValueError:  # UTF-16 that begins as none: ComfyUI reads nothing of it
            self._decoder = None
            return b""


def _decoder(charset: str) -> codecs.IncrementalDecoder | None:
    """None for what is no charset: ComfyUI reads nothing of it either."""
    try:
        "x".encode(charset)  # raises LookupError for codecs of bytes as well
        return codecs.getincrementaldecoder(charset)(errors="replace")
    except (LookupError, ValueError):
        return None
