"""What an uploaded file is, by its content, and whether it is of the kind that is wanted.

Everything here is synchronous; callers run it on an executor. Pictures are decoded
(``pictures.py``). Videos and sounds are only recognised, by their first bytes (puremagic): decoding
them is ComfyUI's work, whose error ends the job.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import BinaryIO, Final

import puremagic

from comfy_proxy.errors import InvalidFieldError
from comfy_proxy.jobs.media.file_info import FileInfo, FileKind
from comfy_proxy.jobs.media.pictures import inspect_picture
from comfy_proxy.media_types import ANY_BYTES, media_type_of

_HEAD_BYTES: Final = 65_536  # enough for each signature that puremagic knows
_EXTENSION: Final = re.compile(r"\.[a-z0-9]{1,10}")
_MEDIA: Final = {FileKind.VIDEO: ("video/",), FileKind.AUDIO: ("audio/", "video/")}
"""ComfyUI's LoadAudio takes the sound of a video too."""


def inspect_file(file: BinaryIO, kind: FileKind, *, field: str, client_name: str = "") -> FileInfo:
    """What ``file`` holds. Its extension is told by its content, unless ``client_name`` has one of
    that kind: many formats have the same beginning (WebM and Matroska). What may be of any kind
    keeps its own.

    Raises InvalidFieldError naming ``field``: as :func:`inspect_picture` for pictures, and
    ``empty_file`` or ``invalid_file`` for others.
    """
    if kind.is_picture:
        return inspect_picture(file, field=field)
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    if not head:
        raise InvalidFieldError(field, f"The file in {field} is empty.", code="empty_file")
    if kind is FileKind.FILE:
        return _any_file(client_name)
    own = PurePosixPath(client_name.lower()).suffix
    for extension, media_type in _recognised(head):
        if media_type.startswith(_MEDIA[kind]):
            if _EXTENSION.fullmatch(own) and media_type_of(own).startswith(_MEDIA[kind]):
                extension, media_type = own, media_type_of(own)
            return FileInfo(media_type=media_type, extension=extension)
    message = f"The file in {field} is no {kind} of a known format."
    raise InvalidFieldError(field, message, code="invalid_file")


def _recognised(head: bytes) -> list[tuple[str, str]]:
    """Extension and media type of what the bytes are most likely, of several that are equally
    likely all: a WAV has the same first bytes as an AVI, and is told by later ones. What has no
    known media type does not count."""
    try:
        matches = puremagic.magic_string(head)
    except puremagic.PureError:
        return []
    known = [
        (match.confidence, match.extension, match.mime_type or media_type_of(match.extension))
        for match in matches
        if _EXTENSION.fullmatch(match.extension)
    ]
    known = [one for one in known if one[2] != ANY_BYTES]  # an MP3 with tags may also be a .koz
    return [(extension, kind) for confidence, extension, kind in known if confidence == known[0][0]]


def _any_file(client_name: str) -> FileInfo:
    extension = PurePosixPath(client_name.lower()).suffix
    if not _EXTENSION.fullmatch(extension):
        extension = ".bin"
    return FileInfo(media_type=media_type_of(extension), extension=extension)
