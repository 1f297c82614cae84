"""The progress of the nodes of one prompt, as `progress_state` events show it."""

from comfy_proxy.embedded.nodes.node_class import Json


class Progress:
    """Remembers what every started node has done; `state()` is the body of `progress_state`."""

    def __init__(self, prompt_id: str) -> None:
        self._prompt_id = prompt_id
        self._nodes: dict[str, Json] = {}

    def start(self, node_id: str) -> None:
        self._nodes[node_id] = self._node(node_id, 0.0, 1.0, "running")

    def update(self, node_id: str, value: float, maximum: float) -> None:
        self._nodes[node_id] = self._node(node_id, value, maximum, "running")

    def finish(self, node_id: str) -> None:
        """Put the bar at its end; that of a node from the cache is 1 (an int, as recorded)."""
        maximum = self._nodes[node_id]["max"] if node_id in self._nodes else 1
        self._nodes[node_id] = self._node(node_id, maximum, maximum, "finished")

    def state(self) -> Json:
        return {"prompt_id": self._prompt_id, "nodes": dict(self._nodes)}

    def _node(self, node_id: str, value: float, maximum: float, state: str) -> Json:
        where = {"value": value, "max": maximum, "state": state, "node_id": node_id}
        return where | {"prompt_id": self._prompt_id} | identity(node_id)


def identity(node_id: str) -> Json:
    """The three other ids that frames give of a node; they would differ inside subgraphs only."""
    return {"display_node_id": node_id, "parent_node_id": None, "real_node_id": node_id}
