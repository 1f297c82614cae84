"""A result as a data URL within JSON, made while it is sent: of a video of a gigabyte neither the
base64 nor the JSON is ever whole in memory."""

from __future__ import annotations

import binascii
from collections.abc import AsyncGenerator

from comfy_proxy.stored_bytes import StoredBytes


class Base64Json:
    """``document`` is JSON with ``empty`` in it, a text in quotes; the first of it is the place
    before whose last quote the base64 of ``body`` belongs."""

    def __init__(self, document: bytes, empty: bytes, body: StoredBytes) -> None:
        at = document.index(empty) + len(empty) - 1
        self._head, self._tail = document[:at], document[at:]
        self._body = body

    @property
    def size(self) -> int:
        """Bytes of the whole."""
        return len(self._head) + (self._body.size + 2) // 3 * 4 + len(self._tail)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """All bytes in order. Raises as :meth:`StoredBytes.open`."""
        yield self._head
        left = b""
        with self._body.held():
            async for chunk in self._body.chunks():
                data = left + chunk
                whole = len(data) // 3 * 3  # three bytes are four letters
                left = data[whole:]
                yield binascii.b2a_base64(data[:whole], newline=False)
        yield binascii.b2a_base64(left, newline=False) + self._tail
