"""Outputs as the contract has them: what kinds there are, and whose ids they have."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from comfy_proxy.comfy_api.outputs import MAX_OF_JOB, Output, outputs_of, text_of

SECRET = b"s" * 32


def made(
    *items: Any, key: str = "images", job_id: str = "j", secret: bytes = SECRET
) -> list[Output]:
    return list(outputs_of(job_id, {"9": {key: list(items)}}, secret))


def file(name: str, subfolder: str = "@1", kind: str = "output") -> dict[str, str]:
    return {"filename": name, "subfolder": subfolder, "type": kind}


@pytest.mark.parametrize(
    ("key", "name", "kind", "content_type"),
    [
        ("images", "a.png", "image", "image/png"),
        ("images", "a.webp", "image", "image/webp"),
        ("images", "a.mp4", "video", "video/mp4"),
        ("gifs", "a.gif", "video", "image/gif"),
        ("audio", "a.flac", "audio", "audio/flac"),
        ("latents", "a.latent", "latent", "application/octet-stream"),
        ("3d", "a.glb", "file", "model/gltf-binary"),
        ("files", "a.txt", "text", "text/plain"),
        ("whatever", "a", "file", "application/octet-stream"),
    ],
)
def test_kinds_of_files(key: str, name: str, kind: str, content_type: str) -> None:
    """Nothing is dropped, whatever a node calls it."""
    (output,) = made(file(name), key=key)
    assert (output.kind, output.content_type, output.name) == (kind, content_type, name)


def test_texts_are_outputs_too() -> None:
    told = {"9": {"text": ["grüße", "b"]}}
    first, second = outputs_of("j", told, SECRET)
    assert (first.kind, first.file, first.size) == ("text", None, 7)
    assert (text_of(told, first), text_of(told, second)) == ("grüße", "b")
    assert text_of({}, first) is None


def test_ids_are_uuids_that_stay_and_cannot_be_guessed() -> None:
    """The same file of two jobs, or for two secrets, has two ids."""
    ids = [
        made(file("a.png"))[0].id,
        made(file("a.png"), job_id="other")[0].id,
        made(file("a.png"), secret=b"t" * 32)[0].id,
        made(file("a.png", "@2"))[0].id,
        made(file("a.png", kind="temp"))[0].id,
    ]
    assert len(set(ids)) == len(ids)
    assert made(file("a.png"))[0].id == ids[0]
    assert all(uuid.UUID(one).version == 4 for one in ids)


@pytest.mark.parametrize(
    "told", [None, [], "x", {"9": None}, {"9": {"images": None}}, {"9": {"images": [1, {}]}}]
)
def test_odd_entries_do_no_harm(told: Any) -> None:
    assert list(outputs_of("j", told, SECRET)) == []


def test_a_flag_is_no_output() -> None:
    """``animated`` says of what kind the pictures beside it are."""
    assert list(outputs_of("j", {"9": {"animated": [file("x.png")]}}, SECRET)) == []


def test_no_job_has_outputs_without_end() -> None:
    """The first are told: each answer has them all in it."""
    names = [f"{n}.png" for n in range(MAX_OF_JOB + 5)]
    told = made(*map(file, names))
    assert [one.name for one in told] == names[:MAX_OF_JOB]
