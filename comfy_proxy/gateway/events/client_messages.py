"""What a client sends on its socket, as ComfyUI reads it."""

from __future__ import annotations

from comfy_proxy.lenient_json import loads

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
