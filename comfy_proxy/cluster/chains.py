"""How long the chains of nodes in a graph are: nodes of which each reads the one before. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Final

MAX_CHAIN: Final = 450
"""Nodes in a chain. A graph with a longer one is refused: ComfyUI follows chains by recursion, and
one of 500 ends the thread that runs prompts (0.3.75 under Python 3.11; with 450 it runs). Then the
instance answers, but runs nothing any more."""


def longest_chain(reads: Mapping[str, Iterable[str]]) -> tuple[int, Mapping[str, Set[str]]]:
    """The nodes of the longest chain, and what is left: each node that is in a circle or reads from
    one, with those of its sources that are. ``reads`` is node id → the nodes it reads; what is no
    node of the graph does not count."""
    left = {node: {one for one in sources if one in reads} for node, sources in reads.items()}
    readers: dict[str, list[str]] = {}
    for node, sources in left.items():
        for source in sources:
            readers.setdefault(source, []).append(node)
    level, length = [node for node, sources in left.items() if not sources], 0
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
