"""A link to a node that is not there, where ComfyUI does not see it before it runs the prompt.

ComfyUI checks the inputs that a class declares and refuses a prompt in which one of them is linked
to nothing. Of other inputs it sees the links only when it has taken the prompt from its queue: then
the exception (``NodeNotFoundError``, ``execution.py`` before its loop, 0.3.75) ends the thread that
runs prompts, and the instance answers, but runs nothing any more. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any, NamedTuple

from comfy_proxy.cluster.object_info.catalog import NodeCatalog

Graph = Mapping[str, Any]


class DeadLink(NamedTuple):
    """The input of the node that is linked to ``target``, which is no node of the graph."""

    node_id: str
    input_name: str
    target: str


def dead_link(graph: Graph, catalog: NodeCatalog) -> DeadLink | None:
    """The first one that would end the thread, by the classes of ``catalog``; None if there is
    none. What no output needs is not run, and may be linked to anything."""
    nodes = {node_id: node for node_id, node in graph.items() if _inputs(node) is not None}
    dead = [one for node_id in nodes for one in _links(node_id, nodes) if one.target not in nodes]
    if not dead:
        return None  # as nearly always
    outputs = [node_id for node_id, node in nodes.items() if _is_output(node, catalog)]
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


def _links(node_id: str, nodes: Graph) -> Iterator[DeadLink]:
    """Those of its inputs, as ComfyUI takes them (by its ``is_link``)."""
    for name, value in nodes[node_id]["inputs"].items():
        if not isinstance(value, list) or len(value) != 2:
            continue
        if isinstance(value[0], str) and isinstance(value[1], int | float):
            yield DeadLink(node_id, name, value[0])


def _inputs(node: Any) -> Mapping[str, Any] | None:
    inputs = node.get("inputs") if isinstance(node, dict) else None
    return inputs if isinstance(inputs, dict) else None


def _is_output(node: Any, catalog: NodeCatalog) -> bool:
    node_class = catalog.get(str(node.get("class_type")))
    return node_class is not None and node_class.is_output


def _declares(link: DeadLink, nodes: Graph, catalog: NodeCatalog) -> bool:
    node_class = catalog.get(str(nodes[link.node_id].get("class_type")))
    return node_class is not None and node_class.declares(link.input_name)
