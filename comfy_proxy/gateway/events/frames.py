"""One instance's frames, as a client of several instances is to see them. Pure, no I/O.

A client has one socket here and one at each instance, under the same clientId. Of what comes back
``status`` is summed by the session, feature flags are answered once, files in ``executed`` carry
their instance, and binary frames of prompts without a client_id (ComfyUI sends them to EVERY
socket) are kept from those whom they do not concern. All else passes as it came.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from comfy_proxy.cluster.prompt_ends import ENDS
from comfy_proxy.lenient_json import dumps_exact, loads, loads_exact

_PREVIEW_IMAGE = 1
_PREVIEW_IMAGE_WITH_METADATA = 4
_JPEG = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """``status``: the queue of that instance."""

    queue_remaining: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Flags:
    """The server's feature flags; ``text`` as it came."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """A frame for the client. ``droppable``: a preview, the first to go for a slow client."""

    data: str | bytes
    droppable: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Began:
    """A prompt of this client runs; ``frame`` is for the client."""

    prompt_id: str
    frame: Pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Executed:
    """A node of this client's prompt has results; ``output`` as the instance names its files."""

    output: Mapping[str, Any]
    frame: Pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A prompt of this client is over; its history is there. ``data`` is that of the event,
    ``worked`` is False if no node ran: all came from the cache."""

    prompt_id: str
    kind: str
    data: Mapping[str, Any] = field(repr=False)
    worked: bool
    frame: Pass


Seen = Status | Flags | Pass | Began | Executed | Ended | None


class FrameReader:
    """Reads one instance's frames in order; knows which prompt of the client runs there.

    ``mark`` puts the instance into the files of an output (identity where nothing is marked).
    """

    def __init__(self, mark: Callable[[Any], Any]) -> None:
        self._mark = mark
        self._own_prompt: str | None = None
        self._own_running = False
        self._own_worked = False
        self._own_node: str | None = None

    @property
    def running(self) -> tuple[str, str] | None:
        """The client's prompt that runs there and the node it is at; None if none is known to."""
        if self._own_running and self._own_prompt is not None and self._own_node is not None:
            return self._own_prompt, self._own_node
        return None

    def text(self, text: str) -> Seen:
        """A text frame; what cannot be understood passes as it is."""
        try:
            message = loads(text)
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
        event, second = struct.unpack(">II", payload[:8].ljust(8, b"\0"))
        if event == _PREVIEW_IMAGE_WITH_METADATA:
            return self._with_metadata(payload, second)
        if not self._own_running:
            return None
        return Pass(data=payload, droppable=event == _PREVIEW_IMAGE and second == _JPEG)

    def _with_metadata(self, payload: bytes, length: int) -> Pass | None:
        """It names its prompt; one that does not is the client's if a prompt of its own runs."""
        try:
            metadata = loads(payload[8 : 8 + length])
            prompt_id, image_type = metadata.get("prompt_id"), metadata.get("image_type")
        except (ValueError, AttributeError):
            prompt_id = image_type = None
        if prompt_id is None or self._own_prompt is None:
            concerned = self._own_running
        else:
            concerned = prompt_id == self._own_prompt
        return Pass(data=payload, droppable=image_type == "image/jpeg") if concerned else None

    def _event(self, text: str, kind: str, data: Mapping[str, Any]) -> Seen:
        frame = Pass(data=text)
        prompt_id = data.get("prompt_id")
        if kind == "execution_start" and isinstance(prompt_id, str):
            self._own_prompt, self._own_running, self._own_worked = prompt_id, True, False
            self._own_node = None
            return Began(prompt_id=prompt_id, frame=frame)
        if kind == "executing":
            # Without prompt_id: what a socket is told that (re)connects in mid-run (trap 14).
            self._own_running = data.get("node") is not None
            if self._own_running:
                self._own_prompt, self._own_worked = prompt_id, True
                self._own_node = str(data["node"])
        if kind == "executed" and isinstance(data.get("output"), dict):
            return self._executed(text, data)
        if kind in ENDS and isinstance(prompt_id, str) and self._is_own(prompt_id):
            self._own_running = False
            return Ended(
                prompt_id=prompt_id, kind=kind, data=data, worked=self._own_worked, frame=frame
            )
        return frame

    def _is_own(self, prompt_id: str) -> bool:
        """Interrupts of prompts without a client_id are told to everybody."""
        return prompt_id == self._own_prompt or (self._own_running and self._own_prompt is None)

    def _executed(self, text: str, data: Mapping[str, Any]) -> Executed:
        output = data["output"]
        marked = self._mark(output)
        if marked != output:
            message = loads_exact(text)
            message["data"]["output"] = self._mark(message["data"]["output"])
            text = dumps_exact(message).decode()
        return Executed(output=output, frame=Pass(data=text))


def event_frame(kind: str, data: Mapping[str, Any]) -> str:
    """A text frame as ComfyUI writes it."""
    return dumps_exact({"type": kind, "data": data}).decode()


def status_frame(queue_remaining: int, sid: str | None = None) -> str:
    """``status`` as ComfyUI writes it; ``sid`` in the first one of a socket only."""
    data: dict[str, Any] = {"status": {"exec_info": {"queue_remaining": queue_remaining}}}
    if sid is not None:
        data["sid"] = sid
    return event_frame("status", data)


NOT_HEARD = object()
"""The kind of what ComfyUI does not count as a message: binary, no JSON, no JSON object."""


def message_kind(data: str | bytes) -> object:
    """``type`` of a client's message, as ComfyUI reads it; or NOT_HEARD."""
    if isinstance(data, bytes):
        return NOT_HEARD
    try:
        message = loads(data)
    except ValueError:
        return NOT_HEARD
    return message.get("type") if isinstance(message, dict) else NOT_HEARD
