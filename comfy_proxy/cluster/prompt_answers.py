"""ComfyUI's answers about prompts that are posted, counted or withdrawn. Pure.

``GET /prompt``: ``{"exec_info": {"queue_remaining": n}}``. ``POST /prompt``: ``{"prompt_id",
"number", "node_errors"}``, or a 400 ``{"error", "node_errors"}``. ``POST /api/jobs/…/cancel``:
``{"cancelled"}``. Each is read from JSON as it was parsed, whatever that is, and made here too
where the proxy answers in ComfyUI's place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from comfy_proxy.cluster.prompt_lists import finite

_ABSOLUTE_PATH = re.compile(
    r"\b[A-Za-z]:[\\/](?:[^'\":*?<>|\\/\r\n]+[\\/])*"  # Windows, with blanks in its names
    r"|(?<![\w.:/])/(?:[^\s'\":*?<>|/]+/)+"
)
MAX_WORDS = 2_000
"""Characters of ComfyUI's own words that are told; the rest is cut off: a node's exception may hold
whole arrays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """What a prompt is called where it was taken, and its place in the order there; None if the
    answer does not tell."""

    prompt_id: str | None
    number: float | None


def read_accepted(answer: Any) -> Accepted:
    """Id and number in an answer to ``POST /prompt``."""
    told = answer if isinstance(answer, dict) else {}
    prompt_id, number = told.get("prompt_id"), told.get("number")
    return Accepted(
        prompt_id=prompt_id if isinstance(prompt_id, str) else None,
        number=finite(number) if isinstance(number, int | float) else None,
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
    """ComfyUI's 400 in one sentence: its message, then each node's own complaint."""
    error = answer.get("error")
    parts = [str(error.get("message", "")) if isinstance(error, dict) else str(error)]
    if isinstance(error, dict) and error.get("details"):
        parts.append(str(error["details"]))
    nodes = answer.get("node_errors")
    for node_id, node in nodes.items() if isinstance(nodes, dict) else ():
        complaints = node.get("errors") if isinstance(node, dict) else None
        parts.extend(
            f"{node.get('class_type')} (node {node_id}): {complaint.get('message')}"
            f" {complaint.get('details')}"
            for complaint in (complaints if isinstance(complaints, list) else ())
            if isinstance(complaint, dict)
        )
    return without_paths("; ".join(part for part in parts if part)) or "ComfyUI refused the graph."


def without_paths(text: str) -> str:
    """``text`` with directories cut from absolute paths: they are the instance's own matter. What
    is longer than MAX_WORDS is cut off."""
    return _ABSOLUTE_PATH.sub("", text).strip()[:MAX_WORDS]
