"""What a file is that a client has sent, as far as it concerns a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class FileKind(StrEnum):
    """What a file parameter takes: ``image`` and ``mask`` are pictures, ``file`` is anything."""

    IMAGE = "image"
    MASK = "mask"
    VIDEO = "video"
    AUDIO = "audio"
    FILE = "file"

    @property
    def is_picture(self) -> bool:
        """It is decoded, and its size is known, before the job is made."""
        return self in (FileKind.IMAGE, FileKind.MASK)


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """Its media type, and the extension (with its dot) under which it is uploaded."""

    media_type: str
    extension: str


@dataclass(frozen=True, kw_only=True)
class PictureInfo(FileInfo):
    """What an uploaded picture is.

    ``width`` and ``height`` are pixels after EXIF orientation. ``has_alpha`` is true where
    ComfyUI's LoadImage finds an alpha channel (PROTOCOL.md trap 26). ``frames`` is 1 for a still
    and more for an animation. Those of GIF and TIFF are not counted but taken for 2: a hostile file
    could have its end very far away.
    """

    format: str
    width: int
    height: int
    has_alpha: bool
    frames: int


FileInfos = Mapping[str, FileInfo]
"""File parameter → what was given for it; one that may be left out can be missing."""


def pictures_of(infos: FileInfos) -> dict[str, PictureInfo]:
    """Those of ``infos`` that are pictures."""
    return {name: info for name, info in infos.items() if isinstance(info, PictureInfo)}
