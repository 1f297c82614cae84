"""ComfyUI's API format as a type that template files are checked against."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import (
    Annotated,
    Any,
    Final,
    Required,  # pydantic takes no other one before 3.12
)

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from comfy_proxy.cluster.links import MAX_CHAIN, is_link, longest_chain, sources
from comfy_proxy.jobs.workflows.plan import Prompt

UI_EXPORT: Final = "this is the editor's own format; export with 'Export (API)'"
"""What is told of a file in that format."""
MAX_DEPTH: Final = 100
"""Brackets in brackets of a graph; a deeper one is no workflow. A few hundred could be read, but
not copied for a job."""
MAX_NODES: Final = 5000
"""Nodes of a graph; one with more is no workflow. It is copied for each job while the event loop
does nothing else: 30 ms for a thousand small ones."""


@with_config(ConfigDict(extra="allow"))
class Node(TypedDict, total=False):
    """One node; what else stands in it (``_meta`` with its title) is passed on to ComfyUI."""

    class_type: Required[str]
    inputs: Required[dict[str, Any]]


def is_ui_export(document: Any) -> bool:
    """True for what ComfyUI's editor saves, ``{"nodes": […]}``, which cannot be run."""
    return isinstance(document, dict) and isinstance(document.get("nodes"), list)


def _refuse_ui_export(graph: Any) -> Any:
    if is_ui_export(graph):
        raise ValueError(UI_EXPORT)
    return graph


def _check_links(graph: Prompt) -> Prompt:
    lost = [
        f"node {node!r}: {name!r} is linked to node {value[0]!r}, which is not there"
        for node, body in graph.items()
        for name, value in body["inputs"].items()
        if is_link(value) and value[0] not in graph
    ]
    if lost:
        raise ValueError("; ".join(lost))
    return graph


def _check_chains(graph: Prompt) -> Prompt:
    """Links through inputs that a class does not declare count too: ComfyUI does not validate
    those, but follows them when it runs the graph."""
    length, circles = longest_chain({node: sources(body) for node, body in graph.items()})
    if circles:
        raise ValueError(f"the links go round in a circle: {' → '.join(_circle(circles))}")
    if length > MAX_CHAIN:
        raise ValueError(f"{length} nodes hang one behind the other; at most {MAX_CHAIN} may")
    return graph


def _circle(reads: Mapping[str, Collection[str]]) -> list[str]:
    """A way from a node back to it; each node that ``reads`` any leads to such a circle."""
    node = next(iter(reads))
    way: dict[str, None] = {}
    while node not in way:
        way[node] = None
        node = min(reads[node])
    nodes = list(way)
    return [*nodes[nodes.index(node) :], node]


def _check_depth(graph: Prompt) -> Prompt:
    level: list[Any] = [graph]
    for _ in range(MAX_DEPTH):
        level = [
            one
            for place in level
            for one in (place.values() if isinstance(place, dict) else place)
            if isinstance(one, dict | list)
        ]
        if not level:
            return graph
    raise ValueError(f"is nested more deeply than {MAX_DEPTH} brackets")


GraphInFile = Annotated[
    dict[str, Node],
    BeforeValidator(_refuse_ui_export),
    Field(min_length=1, max_length=MAX_NODES),
    AfterValidator(_check_depth),
    AfterValidator(_check_links),
    AfterValidator(_check_chains),
]
"""Node id → node; each link leads to a node of it, and none back to where it comes from."""
