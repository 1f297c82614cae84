"""Reads an instance's frames. Pure, no I/O; what they can say is in ``frames.py``."""

from __future__ import annotations

import re
import struct
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from comfy_proxy.cluster.prompt_outcomes import ENDS, cached_nodes
from comfy_proxy.gateway.events.frames import (
    AtNode,
    Began,
    Cached,
    Custom,
    Ended,
    Executed,
    Flags,
    NodeStates,
    Over,
    Pass,
    Progress,
    Scan,
    Seen,
    Status,
    share,
)
from comfy_proxy.gateway.events.scan_frames import PREFIX as SCAN_KINDS
from comfy_proxy.lenient_json import dumps_exact, loads, loads_exact

_PREVIEW_IMAGE = 1
_PREVIEW_IMAGE_WITH_METADATA = 4
_JPEG = 1
_HEAD = struct.Struct(">II")
_OWN_KINDS = ("execution_", "progress", "executing", "executed", "logs", "assets.", "notification")
"""With these the kinds of ComfyUI's own frames begin."""


_STATES = re.compile(r'\{"type": "progress_state", "data": \{"prompt_id": "([^"\\]+)", "nodes": \{')
"""How ComfyUI writes the beginning of ``progress_state``. One that is spelt otherwise is read as
JSON, as all other frames are."""
READ_ONCE: Final = 1_024, 262_144
"""Characters of a text frame, least and most, whose JSON is remembered, because a broadcast comes
on the shared socket and on each client's own. To read a shorter one takes no longer than to find
it; a longer one would hold too much memory."""
_READ_LATELY: Final = deque[tuple[str, Any]](maxlen=8)
"""The last frames of that length and their JSON, from all sockets: it depends on the text alone."""


class FrameReader:
    """Reads the frames of one socket to one instance, in their order.

    ``prefixed`` puts the instance into the files of an output, or gives it back as it is.

    Kept here is only to whom frames belong that do not name their prompt: to the one of which *this
    socket* was told last (``_last_prompt_id``, None if it was not named), from its beginning to its
    end (``_last_runs``). The ledger has no record of what came past us, and may know from the
    history that a prompt is over while its last pictures are still on the wire.
    """

    def __init__(self, prefixed: Callable[[Any], Any]) -> None:
        self._prefixed = prefixed
        self._last_prompt_id: str | None = None
        self._last_runs = False

    def text(self, text: str) -> Seen:
        """A text frame; what cannot be understood passes as it is."""
        if states := _STATES.match(text):
            return NodeStates(prompt_id=states[1], frame=Pass(data=text))
        try:
            message = _message(text)
            kind, data = message["type"], message["data"]
            if kind == "status":
                return Status(queue_remaining=int(data["status"]["exec_info"]["queue_remaining"]))
            if kind == "feature_flags":
                return Flags(text=text)
            return self._event(text, kind, data)
        except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError):
            return Pass(data=text)

    def binary(self, payload: bytes) -> Pass | None:
        """A binary frame, or None if it is of somebody else's prompt."""
        event, second = _HEAD.unpack_from(payload if len(payload) >= 8 else payload.ljust(8, b"\0"))
        if event == _PREVIEW_IMAGE_WITH_METADATA:
            return self._with_metadata(payload, second)
        if not self._last_runs:
            return None
        return Pass(data=payload, droppable=event == _PREVIEW_IMAGE and second == _JPEG)

    def _with_metadata(self, payload: bytes, length: int) -> Pass | None:
        """It names its prompt; one that does not is the client's if a prompt of its own runs."""
        try:
            metadata = loads(payload[8 : 8 + length])
            prompt_id, image_type = metadata.get("prompt_id"), metadata.get("image_type")
        except (ValueError, AttributeError):
            prompt_id = image_type = None
        if prompt_id is None or self._last_prompt_id is None:
            concerned = self._last_runs
        else:
            concerned = prompt_id == self._last_prompt_id
        return Pass(data=payload, droppable=image_type == "image/jpeg") if concerned else None

    def _event(self, text: str, kind: str, data: Mapping[str, Any]) -> Seen:
        frame = Pass(data=text)
        prompt_id = data.get("prompt_id")
        if kind in ("progress", "progress_state") and isinstance(prompt_id, str):
            return _progress(kind, prompt_id, data, frame)
        if kind == "execution_start" and isinstance(prompt_id, str):
            self._last_prompt_id, self._last_runs = prompt_id, True
            return Began(prompt_id=prompt_id, frame=frame)
        if kind == "execution_cached" and isinstance(prompt_id, str):
            return Cached(prompt_id=prompt_id, nodes=cached_nodes(data), frame=frame)
        if kind == "executing":
            return self._executing(data, frame)
        if kind == "executed" and isinstance(data.get("output"), dict):
            return self._executed(text, data)
        if kind in ENDS and isinstance(prompt_id, str):
            return self._ended(kind, prompt_id, data, frame)
        if kind.startswith(SCAN_KINDS):
            return Scan(kind=kind, data=data, text=text)
        if not kind.startswith(_OWN_KINDS):
            return Custom(kind=kind, data=data, frame=frame)
        return frame

    def _executing(self, data: Mapping[str, Any], frame: Pass) -> AtNode | Over | Pass:
        """ComfyUI sends it to the client of the prompt alone; no node means that it is over."""
        node, prompt_id = data.get("node"), data.get("prompt_id")
        self._last_runs = node is not None
        if node is None:
            return Over(prompt_id=prompt_id, frame=frame) if isinstance(prompt_id, str) else frame
        self._last_prompt_id = prompt_id if isinstance(prompt_id, str) else None
        return AtNode(prompt_id=self._last_prompt_id, node=str(node), frame=frame)

    def _ended(self, kind: str, prompt_id: str, data: Mapping[str, Any], frame: Pass) -> Ended:
        """A socket that came in late may hear this of its own prompt, and nothing before."""
        nameless = self._last_runs and self._last_prompt_id is None
        broadcast = kind == "execution_interrupted"
        if nameless or prompt_id == self._last_prompt_id:
            self._last_runs = broadcast = False
        return Ended(prompt_id=prompt_id, kind=kind, data=data, frame=frame, broadcast=broadcast)

    def _executed(self, text: str, data: Mapping[str, Any]) -> Executed:
        output = data["output"]
        if self._prefixed(output) != output:
            message = loads_exact(text)
            message["data"]["output"] = self._prefixed(message["data"]["output"])
            text = dumps_exact(message).decode()
        prompt_id, node = data.get("prompt_id"), data.get("node")
        return Executed(
            prompt_id=prompt_id if isinstance(prompt_id, str) else None,
            node=node if isinstance(node, str) else None,
            output=output,
            frame=Pass(data=text),
        )


def _progress(kind: str, prompt_id: str, data: Mapping[str, Any], frame: Pass) -> Seen:
    if kind == "progress_state":
        is_known = isinstance(data.get("nodes"), dict)
        return NodeStates(prompt_id=prompt_id, frame=frame) if is_known else frame
    node, done = data.get("node"), share(data)
    if not isinstance(node, str):
        return frame
    return Progress(prompt_id=prompt_id, node=node, done=done, frame=frame)


def _message(text: str) -> Any:
    """The JSON of ``text``, not to be changed: read once if it comes on several sockets."""
    if not READ_ONCE[0] <= len(text) <= READ_ONCE[1]:
        return loads(text)
    for known, message in _READ_LATELY:
        if known == text:
            return message
    message = loads(text)
    _READ_LATELY.append((text, message))
    return message
