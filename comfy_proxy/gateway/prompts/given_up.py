"""Clients' prompts that ended here, not at an instance: what ComfyUI would say of their ends.

A prompt whose instance's process has ended while it ran, once too often, is in no instance's
history. This keeps its entry, as ComfyUI writes one of a prompt that failed (recorded:
``tests/protocol/recordings``), until a client deletes it or posts another prompt under its id, or
``MAX_ENTRIES`` newer ones came.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from comfy_proxy.errors import ProcessEndedError
from comfy_proxy.gateway.prompts.posting import ForwardedPrompt
from comfy_proxy.lenient_json import loads_exact

MAX_ENTRIES = 1_000
MAX_BYTES = 64 * 2**20
"""Bytes of the bodies with which these prompts were posted. Beyond it the oldest entries go; the
newest one stays, however large it is."""

Event = dict[str, Any]


def execution_error(prompt: ForwardedPrompt, error: ProcessEndedError, now: datetime) -> Event:
    """The data of the event ``execution_error``; the node is the last one that was heard of."""
    node = prompt.graph.get(prompt.node or "")
    node_type = node.get("class_type") if isinstance(node, Mapping) else None
    return {
        "prompt_id": prompt.prompt_id,
        "node_id": prompt.node or "",
        "node_type": node_type if isinstance(node_type, str) else "",
        "executed": [],
        "exception_message": error.message,
        "exception_type": type(error).__name__,
        "traceback": [],
        "current_inputs": {},
        "current_outputs": [],
        "timestamp": int(now.timestamp() * 1000),
    }


class GivenUpPrompts:
    """Entries of ``/history`` by prompt id, in the order in which the prompts ended."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, tuple[dict[str, Any], int]] = OrderedDict()
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<GivenUpPrompts {len(self._entries)}>"

    def add(self, prompt: ForwardedPrompt, event: Event) -> None:
        """``prompt`` ended with the event ``execution_error``."""
        self.delete([prompt.prompt_id])
        entry = {
            "prompt": [prompt.number, prompt.prompt_id, prompt.graph, _extra_data(prompt), []],
            "outputs": {},
            "status": {
                "status_str": "error",
                "completed": False,
                "messages": [["execution_error", event]],
            },
            "meta": {},
        }
        self._entries[prompt.prompt_id] = entry, len(prompt.body)
        self._bytes += len(prompt.body)
        while len(self._entries) > 1 and (
            len(self._entries) > MAX_ENTRIES or self._bytes > MAX_BYTES
        ):
            self.delete([next(iter(self._entries))])

    def entry(self, prompt_id: str) -> dict[str, Any] | None:
        """Its entry of ``/history``; None if it is not one of these."""
        found = self._entries.get(prompt_id)
        return None if found is None else found[0]

    def entries(self) -> dict[str, dict[str, Any]]:
        """All of them, the oldest first."""
        return {prompt_id: entry for prompt_id, (entry, _) in self._entries.items()}

    def delete(self, prompt_ids: Iterable[str]) -> None:
        """Clients have deleted these, or posted others under their ids; unknown ids are ignored."""
        for prompt_id in prompt_ids:
            _, size = self._entries.pop(prompt_id, (None, 0))
            self._bytes -= size

    def clear(self) -> None:
        """A client has cleared the history."""
        self.delete(tuple(self._entries))


def _extra_data(prompt: ForwardedPrompt) -> dict[str, Any]:
    """As ComfyUI keeps it: without secrets, and with the clientId."""
    try:
        extra_data = loads_exact(prompt.body).get("extra_data")
    except (ValueError, AttributeError):
        extra_data = None
    shown = dict(extra_data) if isinstance(extra_data, dict) else {}
    for secret in ("auth_token_comfy_org", "api_key_comfy_org"):
        shown.pop(secret, None)
    return shown if prompt.client_id is None else {**shown, "client_id": prompt.client_id}
