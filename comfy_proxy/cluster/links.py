"""Links of a graph, and the chains they make: nodes of which each reads the one before. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any, Final

MAX_CHAIN: Final = 900
"""Nodes in a chain. A graph with a longer one is refused: ComfyUI follows chains by recursion, and
one of some 980 ends the thread that runs prompts, if its links are such that they are not validated
(0.3.75 under Python 3.11; 900 run, after 36 s). Then the instance answers, but runs nothing."""


def is_link(value: object) -> bool:
    """True if an input's value is ``[node id, output slot]`` to ComfyUI, for which any number is a
    slot, and a truth too (its own ``is_link``)."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int | float)
    )


def sources(node: Mapping[str, Any]) -> list[str]:
    """The nodes to which the ``inputs`` of ``node`` are linked."""
    return [value[0] for value in node["inputs"].values() if is_link(value)]


def longest_chain(reads: Mapping[str, Iterable[str]]) -> tuple[int, Mapping[str, Set[str]]]:
    """The nodes of the longest chain, and what is left: each node that is in a circle or reads from
    one, with those of its sources that are. ``reads`` is node id → the nodes it reads; what is no
    node of the graph does not count."""
    left = {node: {one for one in read if one in reads} for node, read in reads.items()}
    readers: dict[str, list[str]] = {}
    for node, read in left.items():
        for source in read:
            readers.setdefault(source, []).append(node)
    level, length = [node for node, read in left.items() if not read], 0
    while level:
        length += 1
        following: list[str] = []
        for source in level:
            del left[source]
            for node in readers.get(source, ()):
                left[node].discard(source)
                if not left[node]:
                    following.append(node)
        level = following
    return length, left
