"""``POST /api/v2/assets``: a form received, hashed and compared, then uploaded as any other file.

The file gets a name of its own, made of the client's and of the hash of its bytes
(``photo-3b1f….png``): so two clients' ``photo.png`` are two files, the same bytes are one, and
nobody's upload changes what is in an asset.
"""

from __future__ import annotations

import posixpath
import re
import uuid
from collections.abc import Mapping
from typing import Final

from aiohttp import hdrs, web
from blake3 import blake3

from comfy_proxy.clock import Clock
from comfy_proxy.comfy_api import fields
from comfy_proxy.comfy_api.assets import Asset, AssetBook
from comfy_proxy.comfy_api.errors import HashMismatchError, UnprocessableError
from comfy_proxy.errors import PayloadTooLargeError
from comfy_proxy.gateway.exchange.client_watch import while_connected
from comfy_proxy.gateway.files.file_name import FileName, climbs
from comfy_proxy.gateway.files.offered_uploads import OfferedUploads
from comfy_proxy.gateway.files.records import MAX_STORED_BYTES
from comfy_proxy.gateway.files.upload_body import UploadBody
from comfy_proxy.gateway.files.upload_form import FileSpan, read_file_form
from comfy_proxy.media_types import media_type_of
from comfy_proxy.settings import Settings
from comfy_proxy.stored_bytes import StoredBytes

INPUT: Final = "input"
HASH_LENGTH: Final = 16  # digits of the hash in the name of a file
MAX_PATH_BYTES: Final = 1024
"""Bytes of ``file_path`` in UTF-8; a longer one is refused: a disk takes 4096 with all folders."""
STEM_BYTES: Final = 150
EXTENSION_BYTES: Final = 20
FOLDER_BYTES: Final = 200
"""Bytes in UTF-8 of the client's name, of its extension and of each of its folders that are in the
stored path; more are cut off. A disk takes 255 for a part of a path, and the hash comes to the
name, and `` (1)`` if it is taken."""
_ODD: Final = re.compile(r"[^\w .()+=@-]|\.{2,}")
"""What is replaced in a name: ComfyUI or a form would read it otherwise."""


class AssetUploads:
    """Takes uploads in: the bytes go to the instances, what they are into ``assets``."""

    def __init__(
        self, assets: AssetBook, offered: OfferedUploads, settings: Settings, clock: Clock
    ) -> None:
        self._assets = assets
        self._offered = offered
        self._settings = settings
        self._clock = clock

    async def take(self, request: web.Request, owner: str) -> tuple[Asset, bool]:
        """The asset, and whether its bytes are new here. A body with more bytes than
        MAX_UPLOAD_SIZE, or than MAX_STORED_BYTES, is refused.

        Raises UnprocessableError, HashMismatchError, PayloadTooLargeError, RequestError,
        NoHealthyInstanceError, InstanceError; ClientGoneError.
        """
        limit = min(self._settings.max_upload_size, MAX_STORED_BYTES)
        if (request.content_length or 0) > limit:
            raise _too_large(limit)
        if request.content_type != "multipart/form-data":
            raise UnprocessableError("The body must be a form (multipart/form-data).")
        body = UploadBody(request)
        with while_connected(request):
            await body.receive()
        try:
            if not body.whole or (body.size or 0) > limit:
                raise _too_large(limit)
            content_type = request.headers.get(hdrs.CONTENT_TYPE, "")
            form = await read_file_form(body, content_type, "file")
            if form.file is None:
                raise UnprocessableError("file is missing.", details={"field": "file"})
            content = form.file
            if isinstance(content, FileSpan):
                content = await body.take_out(content)
        finally:
            body.close()
        return await self._keep(content, form.fields, form.content_type, owner)

    async def _keep(
        self, content: StoredBytes, form: Mapping[str, str], told_type: str, owner: str
    ) -> tuple[Asset, bool]:
        """The asset of ``content``, and whether it is new. ``content`` is closed if its bytes are
        known or this raises; else it belongs to the records of files (``OfferedUploads.put``)."""
        try:
            path = _path(form.get("file_path", ""))
            keep_s = fields.keep_s(form.get("expires_in"))
            found = await _hash(content)
            expected = form.get("expected_hash", "").lower()
            if expected and expected != found:
                raise HashMismatchError("The bytes are not those of expected_hash.")
            if (known := self._assets.by_hash(found, owner)) is not None:
                content.close()
                return self._assets.used(known, keep_s), False
            size = content.size
        except BaseException:
            content.close()
            raise
        file = await self._offered.put(content, _file(path, found))
        asset = Asset(
            id=str(uuid.uuid4()),
            owner=owner,
            hash=found,
            size=size,
            content_type=_type(form.get("content_type", ""), told_type, path),
            path=path,
            file=file,
            created=self._clock.now(),
            expires=self._assets.expiry(keep_s),
            keep_s=keep_s,
        )
        self._assets.add(asset)
        return asset, True


async def _hash(content: StoredBytes) -> str:
    hasher = blake3()
    async for piece in content.chunks():
        hasher.update(piece)
    return f"blake3:{hasher.hexdigest()}"


def _path(given: str) -> str:
    """The client's name of the file, checked: one in the input directory.

    Raises UnprocessableError, for models too: nobody here can write into the instances' folders of
    models.
    """
    path = given.strip().removeprefix(f"{INPUT}/")
    folder, name = posixpath.split(path)
    if not name or not given.isprintable() or given.startswith(("/", "\\")) or climbs(given):
        message = "file_path must be a relative path of a file."
        raise UnprocessableError(message, details={"field": "file_path"})
    if len(given.encode()) > MAX_PATH_BYTES:
        message = f"file_path is longer than {MAX_PATH_BYTES} bytes."
        raise UnprocessableError(message, details={"field": "file_path"})
    if folder and not given.startswith(f"{INPUT}/"):
        message = (
            "file_path must be a name, or begin with input/: other folders, those of models among"
            " them, are the instances' own."
        )
        raise UnprocessableError(message, details={"field": "file_path"})
    return path


def _file(path: str, hash_: str) -> FileName:
    folder, name = posixpath.split(path)
    stem, extension = posixpath.splitext(_ODD.sub("_", name))
    digits = hash_.partition(":")[2][:HASH_LENGTH]
    parts = [_ODD.sub("_", part) for part in folder.split("/") if part not in ("", ".")]
    stem, extension = _cut(stem, STEM_BYTES), _cut(extension, EXTENSION_BYTES)
    return FileName(
        filename=f"{stem}-{digits}{extension}",
        subfolder="/".join(_cut(part, FOLDER_BYTES) for part in parts),
        type=INPUT,
    )


def _cut(text: str, limit: int) -> str:
    """Its first characters that are ``limit`` bytes in UTF-8 at most."""
    return text.encode()[:limit].decode(errors="ignore")


def _type(given: str, told: str, path: str) -> str:
    """The type that the client names, else that of its file's part, else by the name."""
    for one in (given, told):
        if one.isprintable() and "/" in one and len(one) < 128:
            return one
    return media_type_of(path)


def _too_large(limit: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(
        f"The upload is larger than {limit} bytes.", details={"limit": limit}
    )
