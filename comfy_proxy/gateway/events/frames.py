"""One instance's frames, as a client of several instances is to see them. Pure, no I/O.

A client has one socket here. The frames come on a socket at each instance, its own or one for all
clients (``shared_sockets.py``). Of them ``status`` is summed (``sums.py``), scans are told once
(``scan_frames.py``), feature flags are answered once, files in ``executed`` carry their instance,
and binary frames of prompts without a client_id (ComfyUI sends them to EVERY socket) are kept from
those whom they do not concern. All else passes as it came.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from comfy_proxy.cluster.prompt_outcomes import ENDS, cached_nodes
from comfy_proxy.gateway.events.scan_frames import PREFIX as SCAN_KINDS
from comfy_proxy.lenient_json import dumps_exact, loads, loads_exact

_PREVIEW_IMAGE = 1
_PREVIEW_IMAGE_WITH_METADATA = 4
_JPEG = 1
_HEAD = struct.Struct(">II")


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
class Cached:
    """A prompt of this client takes the results of ``nodes`` from ComfyUI's cache."""

    prompt_id: str
    nodes: frozenset[str]
    frame: Pass


@dataclass(frozen=True, kw_only=True, slots=True)
class AtNode:
    """A prompt of this client has come to ``node``. ``prompt_id`` is None where the frame does not
    name it: ComfyUI leaves it out when a socket comes in mid-run (PROTOCOL.md trap 14)."""

    prompt_id: str | None
    node: str
    frame: Pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """A node is ``done`` so far (0 to 1)."""

    prompt_id: str
    node: str
    done: float
    frame: Pass


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeStates:
    """How far the nodes of a prompt are that run or have run, as ComfyUI names them."""

    prompt_id: str
    states: Mapping[str, Any] = field(repr=False)
    frame: Pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Executed:
    """A node has results; ``output`` names files as the instance does. None: not named."""

    prompt_id: str | None
    node: str | None
    output: Mapping[str, Any]
    frame: Pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A prompt is over; its history is there. ``data`` is that of the event. ``broadcast``: it was
    interrupted and may be of nobody, which ComfyUI tells everybody."""

    prompt_id: str
    kind: str
    data: Mapping[str, Any] = field(repr=False)
    frame: Pass
    broadcast: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Over:
    """The last frame of a prompt, after :class:`Ended`: its instance is done with it."""

    prompt_id: str
    frame: Pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Custom:
    """A frame of a kind that ComfyUI itself does not send: a custom node's own."""

    kind: str
    data: Mapping[str, Any] = field(repr=False)
    frame: Pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """A scan of the instance's directories goes on; every socket is told. ``text`` as it came."""

    kind: str
    data: Mapping[str, Any] = field(repr=False)
    text: str


OfPrompt = Began | Cached | AtNode | Progress | NodeStates | Executed | Ended | Over
"""What tells of one prompt."""
Seen = Status | Flags | Pass | OfPrompt | Custom | Scan | None

_OWN_KINDS = ("execution_", "progress", "executing", "executed", "logs", "assets.", "notification")
"""With these the kinds of ComfyUI's own frames begin."""


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
        if kind == "execution_start" and isinstance(prompt_id, str):
            self._last_prompt_id, self._last_runs = prompt_id, True
            return Began(prompt_id=prompt_id, frame=frame)
        if kind == "execution_cached" and isinstance(prompt_id, str):
            return Cached(prompt_id=prompt_id, nodes=cached_nodes(data), frame=frame)
        if kind == "executing":
            return self._executing(data, frame)
        if kind in ("progress", "progress_state") and isinstance(prompt_id, str):
            return _progress(kind, prompt_id, data, frame)
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
        states = data.get("nodes")
        if not isinstance(states, dict):
            return frame
        return NodeStates(prompt_id=prompt_id, states=states, frame=frame)
    node, done = data.get("node"), share(data)
    if not isinstance(node, str):
        return frame
    return Progress(prompt_id=prompt_id, node=node, done=done, frame=frame)


def share(data: Mapping[str, Any]) -> float:
    """``value`` of ``max``, from 0 to 1; 0 if that cannot be told."""
    value, most = data.get("value"), data.get("max")
    if not isinstance(value, int | float) or not isinstance(most, int | float) or most <= 0:
        return 0.0
    return min(1.0, max(0.0, value / most))


def frame_of(seen: Pass | OfPrompt | Custom) -> Pass:
    """What the client is to get of it."""
    return seen if isinstance(seen, Pass) else seen.frame


def event_frame(kind: str, data: Mapping[str, Any]) -> str:
    """A text frame as ComfyUI writes it."""
    return dumps_exact({"type": kind, "data": data}).decode()


@lru_cache(maxsize=64)  # all clients are told the same sum: one text for all of them
def status_frame(queue_remaining: int, sid: str | None = None) -> str:
    """``status`` as ComfyUI writes it; ``sid`` in the first one of a socket only."""
    data: dict[str, Any] = {"status": {"exec_info": {"queue_remaining": queue_remaining}}}
    if sid is not None:
        data["sid"] = sid
    return event_frame("status", data)
