"""The order of execution and the cache keys of a graph, as `comfy_execution` defines them."""

from collections.abc import Callable, Iterable
from typing import Any

from comfy_proxy.embedded.nodes.node_class import Json

Key = tuple[Any, ...]


def is_link(value: object) -> bool:
    """Whether an input's value is `[node id, slot]`."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int | float)
    )


def cache_key(graph: Json, node_id: str, fingerprints: Json) -> Key:
    """What decides whether a result can be used again: the node, its constants, its ancestors.

    Ancestors are numbered in the order of the sorted input names, so ids do not matter, as in
    ComfyUI's CacheKeySetInputSignature. A node that does not exist gets a key that equals no other:
    an output that did not pass validation may name one.
    """
    order = _ancestry(graph, node_id)
    return tuple(
        _immediate_key(graph[one], fingerprints[one], order) if one in graph else (object(),)
        for one in (node_id, *order)
    )


def _ancestry(graph: Json, node_id: str) -> dict[str, int]:
    order: dict[str, int] = {}

    def visit(one: str) -> None:
        if one not in graph:
            return
        inputs = graph[one]["inputs"]
        for name in sorted(inputs):
            if is_link(inputs[name]) and (ancestor := inputs[name][0]) not in order:
                order[ancestor] = len(order)
                visit(ancestor)

    visit(node_id)
    return order


def _immediate_key(node: Json, fingerprint: object, order: dict[str, int]) -> Key:
    inputs = node["inputs"]
    values = tuple(
        (name, "link", order[inputs[name][0]], inputs[name][1])
        if is_link(inputs[name])
        else (name, _hashable(inputs[name]))
        for name in sorted(inputs)
    )
    return (node["class_type"], _hashable(fingerprint), values)


def _hashable(value: object) -> object:
    if isinstance(value, dict):
        return tuple((key, _hashable(value[key])) for key in sorted(value))
    if isinstance(value, list):
        return tuple(_hashable(one) for one in value)
    return value


class ExecutionList:
    """Gives the nodes that `outputs` need one by one, dependencies first.

    `is_cached` says whether a node's result is at hand; such a node ends the search for ancestors.
    `is_output` says whether it is an output node: those go first among the ready ones, as in
    ComfyUI, so that a preview shows up early and the order of events is the recorded one.
    """

    def __init__(
        self,
        graph: Json,
        outputs: Iterable[str],
        is_cached: Callable[[str], bool],
        is_output: Callable[[str], bool],
    ) -> None:
        self._graph = graph
        self._is_cached = is_cached
        self._is_output = is_output
        self._blockers: dict[str, set[str]] = {}
        self._blocking: dict[str, dict[str, None]] = {}
        for node_id in outputs:
            self._add(node_id)

    def _add(self, node_id: str) -> None:
        stack, links = [node_id], []
        while stack:
            one = stack.pop()
            if one in self._blockers:
                continue
            self._blockers[one] = set()
            self._blocking[one] = {}
            for source in self._sources(one):
                stack.append(source)
                links.append((source, one))
        for source, target in links:
            self._blocking[source][target] = None
            self._blockers[target].add(source)

    def _sources(self, node_id: str) -> list[str]:
        values = self._graph[node_id]["inputs"].values()
        return [value[0] for value in values if is_link(value) and not self._is_cached(value[0])]

    def __bool__(self) -> bool:
        return bool(self._blockers)

    def next(self) -> str:
        """The node to run now; there is one, as validation refuses cycles."""
        ready = [node_id for node_id, blockers in self._blockers.items() if not blockers]
        return min(ready, key=self._distance_to_output)

    def _distance_to_output(self, node_id: str) -> int:
        """Steps from a node to an output node: 0 if it is one, and 3 for 3 or more."""
        layer = {node_id}
        for distance in range(3):
            if any(map(self._is_output, layer)):
                return distance
            layer = {target for one in layer for target in self._blocking[one]}
        return 3

    def complete(self, node_id: str) -> None:
        """Take a node out that has run; what waited for it may become ready."""
        del self._blockers[node_id]
        for target in self._blocking.pop(node_id):
            self._blockers[target].discard(node_id)
