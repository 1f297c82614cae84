"""Clients' prompts that ended here, not at an instance: what ComfyUI would say of their ends.

A prompt that no instance has any more (``Ending.LOST``; mostly because the process of its instance
ended while it ran, once too often) is in no instance's history, and neither is one that ended in
the moment before that process did (``lost_results.py``). This keeps its entry, as ComfyUI writes
one of a prompt that failed or was interrupted (recorded: ``tests/protocol/recordings``), until a
client deletes it, posts another prompt under its id, or ``MAX_ENTRIES`` newer ones came.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from comfy_proxy.clock import Clock
from comfy_proxy.errors import ComfyProxyError, PromptLostError
from comfy_proxy.gateway.prompts.large_prompt import LARGE_BYTES
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.ledger.states import Ending
from comfy_proxy.lenient_json import loads_exact
from comfy_proxy.observers import tell

MAX_ENTRIES = 1_000
"""So many prompts have an entry; beyond it the one that ended longest ago has none any more."""
MAX_BYTES = 64 * 2**20
"""Bytes of the bodies with which these prompts were posted. Beyond it the oldest entries go; the
newest one stays, however large it is."""

Event = dict[str, Any]
Tell = Callable[[str | None, str, Mapping[str, Any]], None]
"""clientId, type and data of an event as ComfyUI writes it."""


class ResultsLostError(PromptLostError):
    """A prompt has run to its end, and what it made is gone with the process of its instance."""

    code = "results_lost"


def execution_error(prompt: Prompt, error: ComfyProxyError, now: datetime) -> Event:
    """The data of the event ``execution_error``; the node is the last one that was heard of, none
    if what the nodes made was lost afterwards."""
    return {
        **_at_node(prompt, None if isinstance(error, ResultsLostError) else _last_node(prompt)),
        "exception_message": error.message,
        "exception_type": type(error).__name__,
        "traceback": [],
        "current_inputs": {},
        "current_outputs": [],
        "timestamp": _milliseconds(now),
    }


def execution_interrupted(prompt: Prompt, now: datetime) -> Event:
    """The data of the event ``execution_interrupted``, at the last node that was heard of."""
    return {**_at_node(prompt, _last_node(prompt)), "timestamp": _milliseconds(now)}


def _last_node(prompt: Prompt) -> str | None:
    return next((one.node for one in reversed(prompt.attempts) if one.node), None)


def _at_node(prompt: Prompt, node_id: str | None) -> Event:
    graph = {} if prompt.post is None else prompt.post.graph
    node = graph.get(node_id or "")
    node_type = node.get("class_type") if isinstance(node, Mapping) else None
    return {
        "prompt_id": prompt.prompt_id,
        "node_id": node_id or "",
        "node_type": node_type if isinstance(node_type, str) else "",
        "executed": [],
    }


def _milliseconds(now: datetime) -> int:
    return int(now.timestamp() * 1000)


class OwnHistory:
    """Entries of ``/history`` by prompt id, in the order in which the prompts ended.

    ``tell`` sends a client an event: no instance tells it of such an end. ``on_changed`` hears the
    id of a prompt that has an entry now, or has it no longer.
    """

    def __init__(self, clock: Clock, tell: Tell) -> None:
        self._clock = clock
        self._tell = tell
        self._entries: OrderedDict[str, tuple[dict[str, Any], int]] = OrderedDict()
        self._bytes = 0
        self.on_changed: list[Callable[[str], None]] = []

    def __repr__(self) -> str:
        return f"<OwnHistory {len(self._entries)}>"

    def observe(self, change: Change) -> None:
        """An observer of the ledger: which prompts are lost, and which begin anew."""
        prompt, end = change.prompt, change.prompt.end
        if change.is_acceptance:
            self.delete([prompt.prompt_id])
        is_lost = change.is_end and end is not None and end.ending is Ending.LOST
        if is_lost and end is not None and end.error is not None and prompt.job is None:
            self._add(prompt, end.error)

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
            entry, size = self._entries.pop(prompt_id, (None, 0))
            self._bytes -= size
            if entry is not None:
                tell(self.on_changed, prompt_id)

    def clear(self) -> None:
        """A client has cleared the history."""
        self.delete(tuple(self._entries))

    def keep(self, prompt_id: str, entry: dict[str, Any], size: int) -> None:
        """That prompt has ended here, with a body of ``size`` bytes; the oldest may have to go."""
        self._entries[prompt_id] = entry, size
        self._bytes += size
        tell(self.on_changed, prompt_id)
        while len(self._entries) > 1 and (
            len(self._entries) > MAX_ENTRIES or self._bytes > MAX_BYTES
        ):
            self.delete([next(iter(self._entries))])

    def add_ended(self, prompt: Prompt, lost: ResultsLostError) -> None:
        """``prompt`` had ended at an instance, and what that could tell of it is gone. The entry
        has its own end, or ``lost`` if that was a success. Nobody is told an event: its client has
        heard of the end, if it listens."""
        end, now = prompt.end, self._clock.now()
        if end is not None and end.ending is Ending.INTERRUPTED:
            self._write(prompt, "execution_interrupted", execution_interrupted(prompt, now))
            return
        error: ComfyProxyError = lost
        if end is not None and end.ending is Ending.ERROR and end.error is not None:
            error = end.error
        self._write(prompt, "execution_error", execution_error(prompt, error, now))

    def _add(self, prompt: Prompt, error: ComfyProxyError) -> None:
        event = execution_error(prompt, error, self._clock.now())
        self._write(prompt, "execution_error", event)
        self._tell(prompt.client_id, "execution_error", event)
        over = {"node": None, "prompt_id": prompt.prompt_id}
        self._tell(prompt.client_id, "executing", over)

    def _write(self, prompt: Prompt, kind: str, event: Event) -> None:
        body = b"" if prompt.post is None else prompt.post.body
        graph = {} if prompt.post is None else prompt.post.graph
        self.delete([prompt.prompt_id])
        entry = {
            "prompt": [prompt.number, prompt.prompt_id, graph, _extra_data(body, prompt), []],
            "outputs": {},
            "status": {"status_str": "error", "completed": False, "messages": [[kind, event]]},
            "meta": {},
        }
        self.keep(prompt.prompt_id, entry, len(body))


def _extra_data(body: bytes, prompt: Prompt) -> dict[str, Any]:
    """As ComfyUI keeps it: without secrets, and with the clientId; of a large body that alone."""
    try:
        small = body if len(body) <= LARGE_BYTES else b"{}"
        extra_data = loads_exact(small).get("extra_data")
    except (ValueError, AttributeError):
        extra_data = None
    shown = dict(extra_data) if isinstance(extra_data, dict) else {}
    for secret in ("auth_token_comfy_org", "api_key_comfy_org"):
        shown.pop(secret, None)
    return shown if prompt.client_id is None else {**shown, "client_id": prompt.client_id}
