"""ComfyUI's WebSocket frames as values: bytes and text in, frozen frames out, no I/O.

Layouts are those of ComfyUI's ``protocol.py`` and ``server.py``. A text frame is
``{"type", "data"}``; a binary one starts with two big-endian uint32: the event type, and

* type 1 (preview): the format of the picture (1 JPEG, 2 PNG), then the picture;
* type 4 (preview with metadata): the length of a JSON object, then that object and the picture.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from comfy_proxy.lenient_json import dumps, loads

FEATURE_FLAGS = dumps(
    {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
).decode()
"""The FIRST message of a socket that wants binary frames to name their prompt (type 4); ComfyUI
ignores it in any later message."""

_PREVIEW_IMAGE = 1
_PREVIEW_IMAGE_WITH_METADATA = 4
_IMAGE_TYPES = {1: "image/jpeg", 2: "image/png"}


@dataclass(frozen=True, kw_only=True, slots=True)
class StatusFrame:
    """``status``: how many prompts of all clients wait or run at the instance.

    It says nothing about one prompt (PROTOCOL.md trap 3).
    """

    queue_remaining: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptFrame:
    """A text frame about one prompt; ``type`` and ``data`` are ComfyUI's own.

    Types: execution_start, execution_cached, executing, progress, executed, execution_success and
    others.
    """

    type: str
    prompt_id: str
    data: Mapping[str, Any] = field(repr=False)

    @property
    def ends_prompt(self) -> bool:
        """True if the prompt is over. Old servers tell it by ``executing{node:null}`` alone."""
        if self.type == "executing":
            return self.data.get("node") is None
        return self.type in ("execution_success", "execution_error", "execution_interrupted")


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureFrame:
    """A preview or a result of ``SaveImageWebsocket`` (trap 10): the encoded picture in ``data``.

    The ids are None in a frame of type 1, which names no prompt.
    """

    media_type: str
    data: bytes = field(repr=False)
    prompt_id: str | None = None
    node_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectionLost:
    """The socket ended for ``reason``, and no frame follows.

    The prompt may run on: ask ``/queue`` and ``/history`` what became of it (trap 4).
    """

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Wake:
    """Put among the frames by us: it wakes the follower of a prompt, to look at its placement."""


Frame = StatusFrame | PromptFrame | PictureFrame | ConnectionLost | Wake


def decode_text(text: str) -> StatusFrame | PromptFrame | None:
    """A text frame as a value; None for one that names no prompt, or that is malformed."""
    try:
        message = loads(text)
        kind, data = message["type"], message["data"]
        if kind == "status":
            remaining = data["status"]["exec_info"]["queue_remaining"]
            return StatusFrame(queue_remaining=int(remaining))
        prompt_id = data["prompt_id"]
    except (KeyError, OverflowError, TypeError, ValueError):  # int(Infinity) overflows
        return None
    if not isinstance(kind, str) or not isinstance(prompt_id, str):
        return None
    return PromptFrame(type=kind, prompt_id=prompt_id, data=data)


def decode_binary(payload: bytes) -> PictureFrame | None:
    """A binary frame as a value; None for text (type 3), unknown types and malformed frames."""
    try:
        event, second = struct.unpack_from(">II", payload)
        if event == _PREVIEW_IMAGE:
            media_type = _IMAGE_TYPES.get(second, "application/octet-stream")
            return PictureFrame(media_type=media_type, data=payload[8:])
        if event != _PREVIEW_IMAGE_WITH_METADATA or len(payload) < 8 + second:
            return None
        metadata = loads(payload[8 : 8 + second])
        return PictureFrame(
            media_type=str(metadata.get("image_type", "image/png")),
            data=payload[8 + second :],
            prompt_id=metadata.get("prompt_id"),
            node_id=metadata.get("node_id"),
        )
    except (struct.error, ValueError, AttributeError):
        return None
