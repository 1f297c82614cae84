"""ComfyUI's answers about prompts that are posted, counted or withdrawn. Pure.

``GET /prompt``: ``{"exec_info": {"queue_remaining": n}}``. ``POST /prompt``: ``{"prompt_id",
"number", "node_errors"}``, or a 400 ``{"error", "node_errors"}``. ``POST /api/jobs/…/cancel``:
``{"cancelled"}``. Each is read from JSON as it was parsed, whatever that is, and made here too
where the proxy answers in ComfyUI's place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from comfy_proxy.cluster.prompt_lists import finite

_ABSOLUTE_PATH = re.compile(
    r"\b[A-Za-z]:[\\/](?:[^'\":*?<>|\\/\r\n]+[\\/])*"  # Windows, with blanks in its names
    r"|(?<![\w.:/])/(?:[^\s'\":*?<>|/]+/)+"
)
MAX_WORDS = 2_000
"""Characters of ComfyUI's own words that are told; the rest is cut off: a node's exception may hold
whole arrays."""
_LOOKED_AT = 8 * MAX_WORDS
"""Characters of a text in which paths are looked for; in 16 MB that took 0.8 s."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """What a prompt is called where it was taken, and its place in the order there; None if the
    answer does not tell. ``node_errors`` are those of outputs that do not run (PROTOCOL.md trap
    25), as ComfyUI tells them."""

    prompt_id: str | None
    number: float | None
    node_errors: Mapping[str, Any] = field(default_factory=dict)

    @property
    def left_out(self) -> frozenset[str]:
        """The output nodes that do not run; a node with an error if it is not told which."""
        named: set[str] = set()
        for node, told in self.node_errors.items():
            outputs = told.get("dependent_outputs") if isinstance(told, dict) else None
            named.update(map(str, outputs) if isinstance(outputs, list) and outputs else [node])
        return frozenset(named)


def read_accepted(answer: Any) -> Accepted:
    """Id, number and complaints in an answer to ``POST /prompt``."""
    told = answer if isinstance(answer, dict) else {}
    node_errors = told.get("node_errors")
    prompt_id, number = told.get("prompt_id"), told.get("number")
    return Accepted(
        prompt_id=prompt_id if isinstance(prompt_id, str) else None,
        number=finite(number) if isinstance(number, int | float) else None,
        node_errors=node_errors if isinstance(node_errors, dict) else {},
    )


def accepted_answer(prompt_id: str, number: float) -> dict[str, Any]:
    """The answer to a ``POST /prompt`` that was taken."""
    return {"prompt_id": prompt_id, "number": number, "node_errors": {}}


def read_length(answer: Any) -> int | None:
    """How many prompts wait or run, by ``GET /prompt``; None if the answer does not tell."""
    match answer:
        case {"exec_info": {"queue_remaining": int() as remaining}}:
            return remaining
    return None


def length_answer(remaining: int) -> dict[str, Any]:
    """The answer to ``GET /prompt`` where so many wait or run."""
    return {"exec_info": {"queue_remaining": remaining}}


def read_cancelled(answer: Any) -> bool:
    """Whether ``POST /api/jobs/…/cancel`` found something to cancel."""
    match answer:
        case {"cancelled": True}:
            return True
    return False


def cancelled_answer(cancelled: bool) -> dict[str, Any]:
    """The answer to ``POST /api/jobs/…/cancel``."""
    return {"cancelled": cancelled}


def rejection(answer: Mapping[str, Any]) -> str:
    """ComfyUI's 400 in one sentence: its message, then each node's own complaint, as far as
    MAX_WORDS go: it may repeat names of megabytes, which are not looked through."""
    error = answer.get("error")
    parts = [_text(error.get("message", "")) if isinstance(error, dict) else _text(error)]
    if isinstance(error, dict) and error.get("details"):
        parts.append(_text(error["details"]))
    nodes = answer.get("node_errors")
    complaints = _complaints(nodes) if isinstance(nodes, dict) else iter(())
    parts.extend(islice(complaints, MAX_WORDS))
    return without_paths("; ".join(part for part in parts if part)) or "ComfyUI refused the graph."


def _complaints(nodes: Mapping[str, Any]) -> Iterator[str]:
    for node_id, node in nodes.items():
        complaints = node.get("errors") if isinstance(node, dict) else None
        for complaint in complaints if isinstance(complaints, list) else ():
            if isinstance(complaint, dict):
                where = f"{_text(node.get('class_type'))} (node {_text(node_id)})"
                message, details = map(_text, (complaint.get("message"), complaint.get("details")))
                yield f"{where}: {message} {details}"


def _text(told: Any) -> str:
    return str(told)[:_LOOKED_AT]


def without_paths(text: str) -> str:
    """``text`` with directories cut from absolute paths: they are the instance's own matter. What
    is longer than MAX_WORDS is cut off."""
    return _ABSOLUTE_PATH.sub("", text[:_LOOKED_AT]).strip()[:MAX_WORDS]
