"""One instance's frames, as a client of several instances is to see them. Pure, no I/O.

A client has one socket here. The frames come on a socket at each instance, its own or one for all
clients (``shared_sockets.py``). Of them ``status`` is summed (``sums.py``), scans are told once
(``scan_frames.py``), feature flags are answered once, files in ``executed`` carry their instance,
and binary frames of prompts without a client_id (ComfyUI sends them to EVERY socket) are kept from
those whom they do not concern. All else passes as it came.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from comfy_proxy.lenient_json import dumps_exact, loads

_TEXT, _BINARY = 0x81, 0x82
"""The first byte of a WebSocket frame that is a whole message (RFC 6455 5.2)."""
_LONG = 126
"""Bytes of a payload. From so many on its length stands in two bytes of its own, and in their place
in the head is this number."""
_SHORT_HEAD, _LONG_HEAD = struct.Struct("!BB"), struct.Struct("!BBH")


@dataclass(kw_only=True, slots=True)
class Status:
    """``status``: the queue of that instance."""

    queue_remaining: int


@dataclass(kw_only=True, slots=True)
class Flags:
    """The server's feature flags; ``text`` as it came."""

    text: str


@dataclass(kw_only=True, slots=True)
class Pass:
    """A frame for the client. ``droppable``: a preview, the first to go for a slow client."""

    data: str | bytes
    droppable: bool = False
    _wire: bytes | None = field(default=None, init=False, repr=False, compare=False)

    def wire(self) -> bytes:
        """The whole WebSocket frame, as it goes over a connection; made once for all clients.

        Only for up to 65,535 bytes, because the length has two bytes: frames that are kept back
        (``batch.KEPT_BYTES``) are shorter.
        """
        if self._wire is None:
            is_text = isinstance(self.data, str)
            payload = self.data.encode() if isinstance(self.data, str) else self.data
            first, size = _TEXT if is_text else _BINARY, len(payload)
            short = size < _LONG
            head = _SHORT_HEAD.pack(first, size) if short else _LONG_HEAD.pack(first, _LONG, size)
            self._wire = head + payload
        return self._wire


@dataclass(kw_only=True, slots=True)
class Began:
    """A prompt of this client runs; ``frame`` is for the client."""

    prompt_id: str
    frame: Pass


@dataclass(kw_only=True, slots=True)
class Cached:
    """A prompt of this client takes the results of ``nodes`` from ComfyUI's cache."""

    prompt_id: str
    nodes: frozenset[str]
    frame: Pass


@dataclass(kw_only=True, slots=True)
class AtNode:
    """A prompt of this client has come to ``node``. ``prompt_id`` is None where the frame does not
    name it: ComfyUI leaves it out when a socket comes in mid-run (PROTOCOL.md trap 14)."""

    prompt_id: str | None
    node: str
    frame: Pass


@dataclass(kw_only=True, slots=True)
class Progress:
    """A node is ``done`` so far (0 to 1)."""

    prompt_id: str
    node: str
    done: float
    frame: Pass


@dataclass(kw_only=True, slots=True)
class NodeStates:
    """How far the nodes of a prompt are that run or have run (``progress_state``). In a workflow
    with many nodes it is by far the largest frame, and it comes at each step of each node: so it is
    read only when :meth:`states` is called."""

    prompt_id: str
    frame: Pass

    def states(self) -> Mapping[str, Any]:
        """Node id → what ComfyUI says of it; empty if the frame cannot be read."""
        try:
            nodes = loads(self.frame.data)["data"]["nodes"]
        except (KeyError, TypeError, ValueError):
            return {}
        return nodes if isinstance(nodes, dict) else {}


@dataclass(kw_only=True, slots=True)
class Executed:
    """A node has results; ``output`` names files as the instance does. None: not named."""

    prompt_id: str | None
    node: str | None
    output: Mapping[str, Any]
    frame: Pass


@dataclass(kw_only=True, slots=True)
class Ended:
    """A prompt is over; its history is there. ``data`` is that of the event. ``broadcast``: it was
    interrupted and may be of nobody, which ComfyUI tells everybody."""

    prompt_id: str
    kind: str
    data: Mapping[str, Any] = field(repr=False)
    frame: Pass
    broadcast: bool = False


@dataclass(kw_only=True, slots=True)
class Over:
    """The last frame of a prompt, after :class:`Ended`: its instance is done with it."""

    prompt_id: str
    frame: Pass


@dataclass(kw_only=True, slots=True)
class Custom:
    """A frame of a kind that ComfyUI itself does not send: a custom node's own."""

    kind: str
    data: Mapping[str, Any] = field(repr=False)
    frame: Pass


@dataclass(kw_only=True, slots=True)
class Scan:
    """A scan of the instance's directories goes on; every socket is told. ``text`` as it came."""

    kind: str
    data: Mapping[str, Any] = field(repr=False)
    text: str


OfPrompt = Began | Cached | AtNode | Progress | NodeStates | Executed | Ended | Over
"""What tells of one prompt."""
Seen = Status | Flags | Pass | OfPrompt | Custom | Scan | None


_NUMBER = int | float  # made once: it is asked for each frame


def share(data: Mapping[str, Any]) -> float:
    """``value`` of ``max``, from 0 to 1; 0 if that cannot be told."""
    value, most = data.get("value"), data.get("max")
    if not isinstance(value, _NUMBER) or not isinstance(most, _NUMBER) or most <= 0:
        return 0.0
    return min(1.0, max(0.0, value / most))


def frame_of(seen: Pass | OfPrompt | Custom) -> Pass:
    """What the client is to get of it."""
    return seen if isinstance(seen, Pass) else seen.frame


def event_frame(kind: str, data: Mapping[str, Any]) -> str:
    """A text frame as ComfyUI writes it."""
    return dumps_exact({"type": kind, "data": data}).decode()


@lru_cache(maxsize=64)  # all clients are told the same sum: one frame for all of them
def told_status(queue_remaining: int) -> Pass:
    """``status`` as it is told to all clients."""
    return Pass(data=status_frame(queue_remaining))


@lru_cache(maxsize=64)
def status_frame(queue_remaining: int, sid: str | None = None) -> str:
    """``status`` as ComfyUI writes it; ``sid`` in the first one of a socket only."""
    data: dict[str, Any] = {"status": {"exec_info": {"queue_remaining": queue_remaining}}}
    if sid is not None:
        data["sid"] = sid
    return event_frame("status", data)
