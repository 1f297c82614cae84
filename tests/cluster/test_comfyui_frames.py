"""ComfyUI's frames as values; what is malformed is no frame."""

from __future__ import annotations

import json
import struct

import pytest

from comfy_proxy.cluster.comfyui_frames import (
    FEATURE_FLAGS,
    PictureFrame,
    PromptFrame,
    StatusFrame,
    decode_binary,
    decode_text,
)


def text(kind: str, **data: object) -> str:
    return json.dumps({"type": kind, "data": data})


def with_metadata(metadata: object, picture: bytes = b"PNG") -> bytes:
    encoded = json.dumps(metadata).encode()
    return struct.pack(">II", 4, len(encoded)) + encoded + picture


def test_status() -> None:
    """``status`` tells how many prompts wait or run."""
    frame = decode_text(text("status", status={"exec_info": {"queue_remaining": 3}}, sid="x"))
    assert frame == StatusFrame(queue_remaining=3)


def test_frame_about_a_prompt() -> None:
    """Everything with a prompt id keeps its type and data as ComfyUI names them."""
    frame = decode_text(text("progress", value=1, max=4, prompt_id="p", node="2"))
    assert isinstance(frame, PromptFrame)
    assert (frame.type, frame.prompt_id, frame.data["max"]) == ("progress", "p", 4)


@pytest.mark.parametrize(
    ("frame", "ends"),
    [
        (text("execution_start", prompt_id="p"), False),
        (text("executing", prompt_id="p", node="1"), False),
        (text("executing", prompt_id="p", node=None), True),
        (text("execution_success", prompt_id="p"), True),
        (text("execution_error", prompt_id="p"), True),
        (text("execution_interrupted", prompt_id="p"), True),
    ],
)
def test_the_end_of_a_prompt(frame: str, ends: bool) -> None:
    """Success, error, interrupt and the old servers' ``executing{null}`` end a prompt."""
    decoded = decode_text(frame)
    assert isinstance(decoded, PromptFrame)
    assert decoded.ends_prompt is ends


def test_odd_data_loses_no_frame() -> None:
    """NaN, integers of any size and lone surrogates are JSON to ComfyUI."""
    odd = {"value": float("nan"), "max": 2**70, "text": "\ud800"}
    frame = decode_text(text("progress", prompt_id="p\ud800", **odd))
    assert isinstance(frame, PromptFrame)
    assert (frame.prompt_id, frame.data["text"]) == ("p\ud800", "\ud800")
    metadata = {"prompt_id": "p", "node_id": "3", "x": float("inf"), "title": "\udce9"}
    assert decode_binary(with_metadata(metadata)) == PictureFrame(
        media_type="image/png", data=b"PNG", prompt_id="p", node_id="3"
    )
    raw = b'{"prompt_id": "p", "title": "caf\xe9"}'
    decoded = decode_binary(struct.pack(">II", 4, len(raw)) + raw + b"PNG")
    assert decoded is not None
    assert decoded.prompt_id == "p"


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "no JSON",
        "[]",
        "null",
        "{}",
        text("executing", node="3"),  # the echo to a client that reconnects (trap 14)
        text("feature_flags", supports_preview_metadata=True),
        text("status", status={}),
        text("status", status={"exec_info": {"queue_remaining": "many"}}),
        text("status", status={"exec_info": {"queue_remaining": float("inf")}}),
        text("status", status={"exec_info": {"queue_remaining": float("nan")}}),
        json.dumps({"type": "progress", "data": ["prompt_id"]}),
        json.dumps({"type": "progress", "data": {"prompt_id": 7}}),
        json.dumps({"type": 1, "data": {"prompt_id": "p"}}),
    ],
)
def test_text_that_is_no_news(frame: str) -> None:
    """Frames without a prompt of anybody's, and garbage, are nothing."""
    assert decode_text(frame) is None


@pytest.mark.parametrize(
    ("kind", "media_type"), [(1, "image/jpeg"), (2, "image/png"), (9, "application/octet-stream")]
)
def test_preview(kind: int, media_type: str) -> None:
    """Type 1: the picture follows its image type, nobody is named."""
    frame = decode_binary(struct.pack(">II", 1, kind) + b"bytes")
    assert frame == PictureFrame(media_type=media_type, data=b"bytes")


def test_preview_with_metadata() -> None:
    """Type 4: the metadata names prompt and node."""
    metadata = {"prompt_id": "p", "node_id": "3", "image_type": "image/webp"}
    assert decode_binary(with_metadata(metadata, b"bytes")) == PictureFrame(
        media_type="image/webp", data=b"bytes", prompt_id="p", node_id="3"
    )


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\0\0\0\1",
        struct.pack(">II", 3, 2) + b"text",
        struct.pack(">II", 77, 0),
        struct.pack(">II", 4, 999) + b"{}",
        struct.pack(">II", 4, 4) + b"nope" + b"PNG",
        with_metadata(["prompt_id"]),
        with_metadata(None),
    ],
)
def test_binary_that_is_no_picture(payload: bytes) -> None:
    """Text frames, unknown types and truncated ones are nothing."""
    assert decode_binary(payload) is None


def test_first_message_asks_for_metadata() -> None:
    """What is sent first switches type-4 frames on."""
    assert json.loads(FEATURE_FLAGS) == {
        "type": "feature_flags",
        "data": {"supports_preview_metadata": True},
    }
