"""Which text of a graph is the prompt and which the negative prompt, by where it leads."""

from __future__ import annotations

from typing import Any, Final, Literal

from comfy_proxy.cluster.links import is_link
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
        seen: set[tuple[str, str]] = set()
        while waiting:
            link = waiting.pop()
            if not is_link(link) or link[0] not in graph:
                continue
            side = _SLOTS.get(link[1], _POSITIVE)
            if (link[0], side) in seen:
                continue
            seen.add((link[0], side))
            roles.setdefault(link[0], role)
            waiting += _sources(graph[link[0]]["inputs"], side)
    return roles


def _sources(inputs: dict[str, Any], side: Role) -> list[Any]:
    """The links from which a node's conditioning comes; ``side``: of those that take both."""
    if _POSITIVE in inputs or _NEGATIVE in inputs:
        return [inputs.get(side)]
    return [value for name, value in inputs.items() if name.startswith("conditioning")]
