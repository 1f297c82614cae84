"""What an uploaded file is: videos and sounds by their first bytes, whatever they are called."""

from __future__ import annotations

import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from job_client import PNG

from comfy_proxy.errors import InvalidFieldError
from comfy_proxy.jobs.media.file_info import FileInfo, FileKind
from comfy_proxy.jobs.media.file_kinds import inspect_file

MP4, MOV = b"\0\0\0\x18ftypmp42\0\0\0\0", b"\0\0\0\x14ftypqt  \0\0\0\0"
AVI, WAV = b"RIFF\x24\0\0\0AVI LIST", b"RIFF\x24\0\0\0WAVEfmt "
MKV, OGG, FLAC = b"\x1aE\xdf\xa3\x01\0\0\0", b"OggS\0\x02\0\0", b"fLaC\0\0\0\x22"
MP3, ID3, M4A = b"\xff\xfb\x90\0", b"ID3\x03\0\0\0\0\0\0", b"\0\0\0\x20ftypM4A \0\0\0\0"
HEADS = (MP4, MOV, AVI, WAV, MKV, OGG, FLAC, MP3, ID3, M4A, PNG, b"PK\x03\x04", b"%PDF-1.4", b"<?")


def inspect(data: bytes, kind: FileKind, name: str = "") -> FileInfo:
    return inspect_file(io.BytesIO(data), kind, field="field", client_name=name)


@pytest.mark.parametrize(
    ("data", "kind", "name", "extension"),
    [
        (MP4, FileKind.VIDEO, "", ".mp4"),
        (MP4, FileKind.VIDEO, "a.exe", ".mp4"),
        (MOV, FileKind.VIDEO, "", ".mov"),
        (AVI, FileKind.VIDEO, "", ".avi"),
        (MKV, FileKind.VIDEO, "", ".webm"),
        (MKV, FileKind.VIDEO, "a.MKV", ".mkv"),
        (OGG, FileKind.VIDEO, "a.ogv", ".ogv"),
        (WAV, FileKind.AUDIO, "", ".wav"),
        (FLAC, FileKind.AUDIO, "", ".flac"),
        (ID3, FileKind.AUDIO, "a.mp3", ".mp3"),
        (ID3, FileKind.AUDIO, "", ".mp3"),
        (MP3, FileKind.AUDIO, "a.mp3", ".mp3"),
        (OGG, FileKind.AUDIO, "a.ogg", ".ogg"),
        (M4A, FileKind.AUDIO, "", ".m4a"),
        (MP4, FileKind.AUDIO, "", ".mp4"),
        (PNG, FileKind.IMAGE, "a.mp4", ".png"),
        (PNG, FileKind.MASK, "", ".png"),
        (PNG, FileKind.FILE, "a.CUBE", ".cube"),
        (b"x", FileKind.FILE, "", ".bin"),
    ],
)
def test_each_kind(data: bytes, kind: FileKind, name: str, extension: str) -> None:
    """By content, whatever the machine's ``/etc/mime.types`` says or lacks; the client's own
    extension stays if it is one of that kind."""
    assert inspect(data, kind, name).extension == extension


@pytest.mark.parametrize(
    ("data", "kind", "code"),
    [
        (b"", FileKind.VIDEO, "empty_file"),
        (b"", FileKind.FILE, "empty_file"),
        (b"", FileKind.IMAGE, "empty_image"),
        (PNG, FileKind.VIDEO, "invalid_file"),
        (PNG, FileKind.AUDIO, "invalid_file"),
        (M4A, FileKind.VIDEO, "invalid_file"),
        (b"text", FileKind.VIDEO, "invalid_file"),
        (b"\0" * 100, FileKind.AUDIO, "invalid_file"),
        (MP4, FileKind.IMAGE, "invalid_image"),
    ],
)
def test_another_kind_is_refused(data: bytes, kind: FileKind, code: str) -> None:
    """With a code and the field."""
    with pytest.raises(InvalidFieldError) as caught:
        inspect(data, kind, "a.mp4")
    assert (caught.value.code, caught.value.field) == (code, "field")


@settings(deadline=None)
@given(st.sampled_from(HEADS) | st.binary(max_size=20), st.binary(max_size=200), st.text())
@example(b"PK\x03\x04", b"\xff" * 26, "a.mp4")
def test_any_bytes(head: bytes, rest: bytes, name: str) -> None:
    """Nothing but InvalidFieldError is raised, and an extension leads nowhere."""
    for kind in FileKind:
        try:
            info = inspect(head + rest, kind, name)
        except InvalidFieldError:
            continue
        assert info.extension[0] == "."
        assert info.extension[1:].isalnum()
        assert info.extension.isascii()
        assert "/" in info.media_type
