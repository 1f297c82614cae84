"""Bodies with files in them, and forms.

Forms are read by aiohttp's MultipartReader from a stream of our own. That counts all bytes that are
read (MultipartReader reads a preamble without end), and makes one error of the many that aiohttp
raises when a body breaks off.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Final, TypeVar, cast

from aiohttp import BodyPartReader, MultipartReader, StreamReader
from aiohttp.http_exceptions import HttpProcessingError

from comfy_proxy.bodies import ClientBody
from comfy_proxy.errors import InvalidFieldError, PayloadTooLargeError, RequestError

T = TypeVar("T")

_BYTES_OF_CHARACTER: Final = 4  # at most, in UTF-8
_CHUNK_BYTES: Final = 262_144  # of a form's file, read and stored at once


def too_large(limit: int) -> PayloadTooLargeError:
    """The error for a body over ``limit`` bytes."""
    message = f"The request's files have more than {limit} bytes."
    return PayloadTooLargeError(message, details={"max_upload_size": limit})


def body_with_files(content: StreamReader, limit: int, *, told_limit: int) -> ClientBody:
    """A request's content of at most ``limit`` bytes, with what MultipartReader needs of a stream.

    Reading raises PayloadTooLargeError beyond the limit, and RequestError ``broken_body`` if the
    client goes away or the transfer encoding is wrong. ``told_limit`` is the limit of the files,
    which the error names: ``limit`` has room for what a form or JSON puts around it.
    """
    return ClientBody(
        content,
        limit,
        too_large=lambda: too_large(told_limit),
        malformed=broken_body,
        gone=broken_body,
    )


class FormReader:
    """The parts of a multipart/form-data body, one after the other, each read as a stream."""

    def __init__(self, headers: Mapping[str, str], body: ClientBody) -> None:
        try:
            self._reader = MultipartReader(headers, cast(StreamReader, body))
        except (ValueError, AssertionError):
            raise RequestError(
                "The multipart body has no usable boundary in its Content-Type.", code="broken_body"
            ) from None

    async def parts(self) -> AsyncIterator[tuple[str, BodyPartReader]]:
        """Field names and their parts; bytes of a part that the caller leaves are skipped."""
        while (part := await _understood(self._reader.next())) is not None:
            # MultipartReader gives a part without headers where a form is cut off between parts.
            if not isinstance(part, BodyPartReader) or not part.name:
                raise broken_body()
            yield part.name, part

    async def chunks(self, part: BodyPartReader) -> AsyncIterator[bytes]:
        """The content of ``part``, decoded if it came as base64 or quoted-printable."""
        while not part.at_eof():
            data = await _understood(part.read_chunk(_CHUNK_BYTES))
            try:
                yield bytes(part.decode(data))
            except (ValueError, RuntimeError):
                raise broken_body() from None

    async def read_text(self, name: str, part: BodyPartReader, limit: int) -> str:
        """The content of a small field, UTF-8; raises InvalidFieldError if it has more bytes than
        ``limit`` characters can have. Whether it has more characters the caller sees."""
        data = b""
        while not part.at_eof():
            data += await _understood(part.read_chunk())
            if len(data) > limit * _BYTES_OF_CHARACTER:
                raise InvalidFieldError(name, f"{name} is longer than {limit} characters.")
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise InvalidFieldError(name, f"{name} is not UTF-8.") from None


def broken_body() -> RequestError:
    """The error for a body that ends too early or is not what its headers say."""
    return RequestError("The body is cut off or malformed.", code="broken_body")


async def _understood(reading: Awaitable[T]) -> T:
    """``reading`` of a MultipartReader; the several types of errors it raises become one."""
    try:
        return await reading
    except (ValueError, RuntimeError, AssertionError, HttpProcessingError):
        raise broken_body() from None
