"""What a file is by its name."""

from __future__ import annotations

import mimetypes

import pytest

from comfy_proxy.comfy_api.outputs import outputs_of
from comfy_proxy.media_types import media_type_of


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.png", "image/png"),
        (".PNG", "image/png"),
        ("clip.mkv", "video/x-matroska"),
        ("a.b/mesh.GLB", "model/gltf-binary"),
        ("song.ogg", "audio/ogg"),
        ("A.MP4", "video/mp4"),
        ("a.webp", "image/webp"),
        ("a/b.txt", "text/plain"),
        ("a.\ud800", "application/octet-stream"),
        ("a.png.gz", "application/octet-stream"),
        ("lora.safetensors", "application/octet-stream"),
        ("data:image/png,", "application/octet-stream"),
        ("", "application/octet-stream"),
    ],
)
def test_the_last_extension_says_it(name: str, media_type: str) -> None:
    assert media_type_of(name) == media_type


def test_it_is_the_same_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine's own table says of an extension counts nothing."""
    monkeypatch.setitem(mimetypes.types_map, ".exr", "image/aces")
    assert media_type_of("a.exr") == "application/octet-stream"


@pytest.mark.parametrize("name", ["clip.mkv", "clip.m4v", "clip.webm"])
def test_the_comfy_api_knows_the_same_videos_as_the_job_api(name: str) -> None:
    """Nodes tell videos as images: the type of the file decides."""
    (output,) = outputs_of("job", {"9": {"images": [{"filename": name}]}}, b"secret")
    assert (output.kind, output.content_type) == ("video", media_type_of(name))
