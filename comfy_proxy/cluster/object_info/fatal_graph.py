"""What in a graph would stop the instance that takes it, though ComfyUI does not refuse it.

* A chain of very many nodes (``links.py``).
* A link to a node that is not there. ComfyUI refuses it for an input that its class declares. Of
  other inputs it sees the links only when it has taken the prompt from its queue: then the
  exception (``NodeNotFoundError``, 0.3.75) ends the thread that runs prompts, and the instance
  answers, but runs nothing any more.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any, NamedTuple

from comfy_proxy.cluster.links import MAX_CHAIN, is_link, longest_chain, sources
from comfy_proxy.cluster.object_info.catalog import NodeCatalog

Graph = Mapping[str, Any]


class _Link(NamedTuple):
    """The input of the node that is linked to the node ``target``."""

    node_id: str
    input_name: str
    target: str


def fatal_flaw(graph: Graph, catalog: NodeCatalog) -> str | None:
    """In a sentence what would stop an instance with the classes of ``catalog``; None if nothing
    would."""
    nodes = {node_id: node for node_id, node in graph.items() if _inputs(node) is not None}
    if len(nodes) > MAX_CHAIN:
        length, circles = longest_chain({one: sources(node) for one, node in nodes.items()})
        if length + len(circles) > MAX_CHAIN:
            return f"More than {MAX_CHAIN} nodes of the prompt hang one behind the other."
    if (dead := _dead_link(nodes, catalog)) is not None:
        return (
            f"The input {dead.input_name} of node {dead.node_id} is linked to node {dead.target},"
            " which is not there."
        )
    return None


def _dead_link(nodes: Graph, catalog: NodeCatalog) -> _Link | None:
    """The first link to nothing that ends the thread. What no output needs is not run, and may be
    linked to anything."""
    if nodes.keys() >= {source for node in nodes.values() for source in sources(node)}:
        return None  # as nearly always
    dead = [one for node_id in nodes for one in _links(node_id, nodes) if one.target not in nodes]
    outputs = [one for one in nodes if catalog.is_output(_class_of(nodes[one]))]
    run = _reached(outputs, nodes)
    checked = _reached(outputs, nodes, catalog)
    for one in dead:
        is_checked = one.node_id in checked and _declares(one, nodes, catalog)
        if one.node_id in run and not is_checked:
            return one
    return None


def _reached(outputs: Iterable[str], nodes: Graph, catalog: NodeCatalog | None = None) -> Set[str]:
    """The nodes that ``outputs`` need, themselves included; with ``catalog`` those to which
    declared inputs alone lead."""
    reached, left = set[str](), list(outputs)
    while left:
        node_id = left.pop()
        if node_id in reached or node_id not in nodes:
            continue
        reached.add(node_id)
        links = _links(node_id, nodes)
        left += [one.target for one in links if catalog is None or _declares(one, nodes, catalog)]
    return reached


def _links(node_id: str, nodes: Graph) -> Iterator[_Link]:
    for name, value in nodes[node_id]["inputs"].items():
        if is_link(value):
            yield _Link(node_id, name, value[0])


def _inputs(node: Any) -> Mapping[str, Any] | None:
    inputs = node.get("inputs") if isinstance(node, dict) else None
    return inputs if isinstance(inputs, dict) else None


def _declares(link: _Link, nodes: Graph, catalog: NodeCatalog) -> bool:
    return catalog.declares(_class_of(nodes[link.node_id]), link.input_name)


def _class_of(node: Mapping[str, Any]) -> str:
    return str(node.get("class_type"))
