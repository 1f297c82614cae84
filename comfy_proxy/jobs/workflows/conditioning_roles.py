"""Which text of a graph is the prompt and which the negative prompt, by where it leads."""

from __future__ import annotations

from typing import Any, Final, Literal

from comfy_proxy.jobs.workflows.graph_format import is_link
from comfy_proxy.jobs.workflows.plan import Prompt

Role = Literal["positive", "negative"]
_POSITIVE: Final[Role] = "positive"
_NEGATIVE: Final[Role] = "negative"
_SLOTS: Final = {0: _POSITIVE, 1: _NEGATIVE}
"""Nodes that take both give them back in this order (ControlNetApplyAdvanced and its like)."""


def text_roles(graph: Prompt) -> dict[str, Role]:
    """Node id → its role, for each node from which a sampler's ``positive`` or ``negative`` comes.

    A text that is both (Flux has no negative prompt and takes an emptied one) is ``positive``.
    """
    roles: dict[str, Role] = {}
    for role in (_POSITIVE, _NEGATIVE):
        waiting = [body["inputs"][role] for body in graph.values() if role in body["inputs"]]
        if role == _POSITIVE:
            waiting += [
                body["inputs"].get("conditioning")
                for body in graph.values()
                if body["class_type"] == "BasicGuider"
            ]
        seen: set[tuple[str, int]] = set()
        while waiting:
            link = waiting.pop()
            if not is_link(link) or (link[0], link[1]) in seen or link[0] not in graph:
                continue
            seen.add((link[0], link[1]))
            roles.setdefault(link[0], role)
            waiting += _sources(graph[link[0]]["inputs"], link[1])
    return roles


def _sources(inputs: dict[str, Any], slot: int) -> list[Any]:
    """The links from which the conditioning in a node's output ``slot`` comes."""
    if _POSITIVE in inputs or _NEGATIVE in inputs:
        return [inputs.get(_SLOTS.get(slot, _POSITIVE))]
    return [value for name, value in inputs.items() if name.startswith("conditioning")]
