"""The form that an upload is, read as ComfyUI will read it, also while its body still comes."""

from __future__ import annotations

import asyncio
import posixpath
import re
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol, cast

import aiohttp
from aiohttp import BodyPartReader, MultipartReader, hdrs
from aiohttp.helpers import parse_mimetype
from aiohttp.http_exceptions import HttpProcessingError

from comfy_proxy.gateway.exchange.charsets import is_slow
from comfy_proxy.gateway.files.file_name import (
    FILE_TYPES,
    FileName,
    climbs,
    file_at,
    split_annotation,
)
from comfy_proxy.lenient_json import loads
from comfy_proxy.stored_bytes import BATCH_BYTES, MEMORY_BYTES, StoredBytes

if TYPE_CHECKING:
    from hashlib import _Hash as HASH

PIECE_BYTES = 131_072
"""Bytes of an upload that are read at once (128 KiB). Of one that passes a few such pieces are all
that is in memory; smaller ones cost more time."""
MAX_FIELD_BYTES = 65_536
"""Of a text field; a form with a longer one is passed on, and not read here any further."""
_NUMBERED = re.compile(r"( \(\d+\))+(?=\.[^./]*$|$)")
"""What ComfyUI puts behind a name that is taken: `` (1)``."""
_BROKEN = (
    *(ValueError, AssertionError, RuntimeError, LookupError),
    *(HttpProcessingError, zlib.error),
)
"""What aiohttp raises for a form that is none; ComfyUI tells the client so."""


class FormBody(Protocol):
    """The body that a form is read from."""

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """All of it in order, each piece as soon as it is there; ends where the body does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileSpan:
    """Where the file is in the body, ``start`` and ``size`` in bytes, and its SHA-256."""

    start: int
    size: int
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class UploadForm:
    """The fields that matter. ``image`` is where the file's bytes are in the body; if it came in a
    coding it is the bytes themselves, to be closed by who has the form."""

    image: FileSpan | StoredBytes | None = field(repr=False)
    filename: str
    subfolder: str
    type: str
    original_ref: str

    @classmethod
    def nothing(cls) -> UploadForm:
        """Of a body that is not read here."""
        return cls(image=None, filename="", subfolder="", type="input", original_ref="")

    def close(self) -> None:
        """Forget the file."""
        if isinstance(self.image, StoredBytes):
            self.image.close()

    @property
    def original(self) -> FileName | None:
        """The picture that a mask is for; None if none is named that an instance would take."""
        try:
            reference = loads(self.original_ref)
        except ValueError:
            return None
        if not isinstance(reference, dict) or not isinstance(reference.get("filename"), str):
            return None
        name, kind = split_annotation(reference["filename"])
        kind = kind or reference.get("type", "output")
        subfolder = reference.get("subfolder", "")
        if not isinstance(kind, str) or not isinstance(subfolder, str) or kind not in FILE_TYPES:
            return None
        if not name or name.startswith("/") or ".." in name or climbs(subfolder):
            return None
        return file_at(name, subfolder, kind)

    @property
    def family(self) -> tuple[str, str, str]:
        """All names that ComfyUI may give it have this in common: ``x.png``, ``x (1).png``…"""
        path = posixpath.normpath(posixpath.join(self.subfolder, self.filename))
        directory, name = posixpath.split(path)
        return self.type, directory.casefold(), _NUMBERED.sub("", name).casefold()


@dataclass(frozen=True, kw_only=True, slots=True)
class FileForm:
    """A form with one file: as of :class:`UploadForm`; ``content_type`` is what its part tells."""

    fields: Mapping[str, str]
    file: FileSpan | StoredBytes | None = field(repr=False)
    filename: str = ""
    content_type: str = ""


async def read_form(body: FormBody, content_type: str) -> UploadForm:
    """The form in ``body``; what cannot be read is empty, as if it were not there.

    So is all that is no ``multipart/form-data``: ComfyUI looks into no other, and the parts of
    others may be compressed, a MiB of which would fill a GiB of our disk.
    """
    kind = parse_mimetype(content_type)
    if (kind.type, kind.subtype) != ("multipart", "form-data"):
        return UploadForm.nothing()
    form = await read_file_form(body, content_type, "image")
    return UploadForm(
        image=form.file,
        filename=form.filename,
        subfolder=form.fields.get("subfolder", ""),
        type=form.fields.get("type", "input"),
        original_ref=form.fields.get("original_ref", ""),
    )


async def read_file_form(body: FormBody, content_type: str, name: str) -> FileForm:
    """The text fields of a form, the first of each name, and its file of that ``name``; what cannot
    be read is left out."""
    fields: dict[str, str] = {}
    found = FileForm(fields=fields, file=None)

    async def take(field_name: str, part: BodyPartReader, stream: _PieceStream) -> None:
        nonlocal found
        if part.filename and field_name == name and found.file is None:
            kind = part.headers.get(hdrs.CONTENT_TYPE, "")
            file = await _image(part, stream)
            found = replace(found, file=file, filename=part.filename, content_type=kind)
        elif not part.filename:
            fields.setdefault(field_name, await _text(part))

    try:
        await _each_part(body, content_type, take)
    except BaseException:  # the client has left, say
        if isinstance(found.file, StoredBytes):
            found.file.close()
        raise
    return found


async def read_text_fields(body: FormBody, content_type: str) -> dict[str, str]:
    """The text fields of the form in ``body``, the first of each name; its files are passed over.

    What cannot be read is left out, as if it were not there.
    """
    fields: dict[str, str] = {}

    async def take(name: str, part: BodyPartReader, stream: _PieceStream) -> None:
        if not part.filename:
            fields.setdefault(name, await _text(part))

    await _each_part(body, content_type, take)
    return fields


async def _each_part(
    body: FormBody,
    content_type: str,
    take: Callable[[str, BodyPartReader, _PieceStream], Awaitable[None]],
) -> None:
    """Give each part of the form in ``body`` to ``take`` by its name, as far as it can be read."""
    async with aclosing(body.pieces()) as pieces:
        try:
            stream = _PieceStream(pieces)
            content = cast(aiohttp.StreamReader, stream)
            async for part in MultipartReader({hdrs.CONTENT_TYPE: content_type}, content):
                if not isinstance(part, BodyPartReader) or part.name is None:
                    break
                await take(part.name, part, stream)
        except _BROKEN:
            pass


async def _image(part: BodyPartReader, stream: _PieceStream) -> FileSpan | StoredBytes:
    """Where the file ``part`` is in the body; the bytes themselves if they came in a coding. Raises
    ValueError if it does not end as a part of a form does."""
    if hdrs.CONTENT_ENCODING in part.headers or hdrs.CONTENT_TRANSFER_ENCODING in part.headers:
        return await _stored(part)
    start, size, digest = stream.position, 0, sha256()
    batch: list[bytes] = []
    while chunk := await part.read_chunk(PIECE_BYTES):
        size += len(chunk)
        batch.append(chunk)
        if sum(map(len, batch)) >= BATCH_BYTES:
            await asyncio.to_thread(_hash, digest, batch)
            batch = []
    if sum(map(len, batch)) > MEMORY_BYTES:
        await asyncio.to_thread(_hash, digest, batch)
    else:
        _hash(digest, batch)
    if stream.position != start + size + len(b"\r\n"):
        raise ValueError("It is not plain where the file is.")
    return FileSpan(start=start, size=size, digest=digest.hexdigest())


def _hash(digest: HASH, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        digest.update(piece)


async def _stored(part: BodyPartReader) -> StoredBytes:
    content = StoredBytes()
    try:
        while chunk := await part.read_chunk(PIECE_BYTES):
            async for piece in part.decode_iter(chunk):
                await content.write(piece)
        return await content.finish()
    except BaseException:
        content.close()
        raise


async def _text(part: BodyPartReader) -> str:
    text = bytearray()
    while chunk := await part.read_chunk():
        async for piece in part.decode_iter(chunk):
            text += piece
        if len(text) > MAX_FIELD_BYTES:
            raise ValueError("A field is too long.")
    charset = part.get_charset("utf-8")
    if is_slow(charset):
        raise ValueError("A field in this charset is not read.")
    return text.decode(charset)


class _PieceStream:
    """Pieces of a body with those methods of aiohttp's StreamReader that its MultipartReader
    calls."""

    def __init__(self, pieces: AsyncGenerator[bytes, None]) -> None:
        self._pieces = pieces
        self._back = b""
        self._taken = 0
        self._ended = False

    @property
    def position(self) -> int:
        """Bytes from the beginning of the body to what is read next."""
        return self._taken - len(self._back)

    async def read(self, n: int = -1) -> bytes:
        if not self._back:
            self._back = await self._next()
        chunk, self._back = self._back[:n], self._back[n:]
        return chunk

    async def readline(self, *, max_line_length: int | None = None) -> bytes:
        while (end := self._back.find(b"\n")) < 0 and not self._ended:
            if len(self._back) > BATCH_BYTES + (max_line_length or 0):
                raise ValueError("A line of the form is too long.")
            self._back += await self._next()
        end = len(self._back) if end < 0 else end + 1
        line, self._back = self._back[:end], self._back[end:]
        return line

    def unread_data(self, data: bytes) -> None:
        self._back = data + self._back

    def at_eof(self) -> bool:
        return self._ended and not self._back

    async def _next(self) -> bytes:
        piece = await anext(self._pieces, b"")
        self._ended = not piece
        self._taken += len(piece)
        return piece
