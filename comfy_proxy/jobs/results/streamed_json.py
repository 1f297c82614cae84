"""A result within JSON, made while it is sent: of a video of a gigabyte neither the base64 nor the
JSON is ever whole in memory, and of a text neither the text nor the JSON."""

from __future__ import annotations

import binascii
import codecs
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator

from comfy_proxy.lenient_json import dumps
from comfy_proxy.stored_bytes import StoredBytes


class StreamedJson(ABC):
    """``document`` is JSON with ``empty`` in it, a text in quotes; the first of it is the place
    before whose last quote what is made of ``body`` belongs. ``size`` is that of the whole in
    bytes, None if it is not known before it is made."""

    size: int | None = None

    def __init__(self, document: bytes, empty: bytes, body: StoredBytes) -> None:
        at = document.index(empty) + len(empty) - 1
        self._head, self._tail = document[:at], document[at:]
        self._body = body

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """All bytes in order. Raises as :meth:`StoredBytes.open`."""
        yield self._head
        with self._body.held():
            async for chunk in self._body.chunks():
                if made := self._made(chunk):
                    yield made
        yield self._made(b"", last=True) + self._tail

    @abstractmethod
    def _made(self, chunk: bytes, *, last: bool = False) -> bytes:
        """What comes of the next part of the body."""


class Base64Json(StreamedJson):
    """With the body as base64."""

    def __init__(self, document: bytes, empty: bytes, body: StoredBytes) -> None:
        super().__init__(document, empty, body)
        self._left = b""
        self.size = len(document) + (body.size + 2) // 3 * 4

    def _made(self, chunk: bytes, *, last: bool = False) -> bytes:
        data = self._left + chunk
        whole = len(data) if last else len(data) // 3 * 3  # three bytes are four letters
        self._left = data[whole:]
        return binascii.b2a_base64(data[:whole], newline=False)


class TextJson(StreamedJson):
    """With the body as the text that it is in UTF-8; of what is none each byte is U+FFFD, as
    ``bytes.decode(errors="replace")`` has it."""

    def __init__(self, document: bytes, empty: bytes, body: StoredBytes) -> None:
        super().__init__(document, empty, body)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def _made(self, chunk: bytes, *, last: bool = False) -> bytes:
        return dumps(self._decoder.decode(chunk, final=last))[1:-1]
