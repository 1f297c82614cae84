"""How far a job is, by what its instance tells: nodes that are done, steps of the one that runs.

The value is the share of the graph's nodes that are done, the one that runs counted by its steps.
It never goes back, also when the job begins anew elsewhere. A node that ComfyUI takes from its
cache is done; one that no output needs never runs, so a job may end before all are done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_proxy.gateway.events.frames import (
    AtNode,
    Began,
    Cached,
    Executed,
    NodeStates,
    Progress,
    Seen,
    share,
)
from comfy_proxy.lenient_json import loads

Json = dict[str, Any]


class JobProgress:
    """``nodes`` are the ids of the graph's nodes with their classes.

    The frames that come at each step are kept, the last of each kind, and read when somebody asks.
    """

    def __init__(self, nodes: Mapping[str, str]) -> None:
        self.nodes = nodes
        self._done: set[str] = set()
        self._current: str | None = None
        self._states: NodeStates | None = None
        self._step: Progress | None = None
        self._value = 0.0

    def heard(self, seen: Seen) -> bool:
        """A frame about the job; True if it tells how far the job is."""
        match seen:
            case Began():
                self._done, self._current, self._states, self._step = set(), None, None, None
            case Cached(nodes=nodes):
                self._done |= nodes
            case AtNode(node=node):
                self._reached(node)
            case Executed(node=str(node)):
                self._done.add(node)
            case NodeStates():
                self._states = seen
            case Progress():
                self._step = seen
            case _:
                return False
        return True

    def _reached(self, node: str) -> None:
        """Nodes run one after the other: the one before is done."""
        if self._current is not None and self._current != node:
            self._done.add(self._current)
        self._current, self._step = node, None

    def snapshot(self) -> Json:
        """The contract's ``Progress``."""
        running = self._read_states()
        done = self._done & self.nodes.keys()
        step, steps = self._steps(running)
        at = self._current
        if at is not None and at in self.nodes and at not in done and steps:
            running[at] = max(running.get(at, 0.0), (step or 0) / steps)
        parts = sum(value for node, value in running.items() if node not in done)
        if self.nodes:
            self._value = max(self._value, min(1.0, (len(done) + parts) / len(self.nodes)))
        return self._told(len(done), step, steps)

    def finished(self) -> Json:
        """Of a job that has ended well."""
        self._value, self._current, self._step = 1.0, None, None
        return self._told(len(self.nodes), None, None)

    def _told(self, done: int, step: int | None, steps: int | None) -> Json:
        name = None if self._current is None else self.nodes.get(self._current)
        message = f"{name} {step}/{steps}" if name and steps else name
        return {
            "value": self._value,
            "nodes_done": done,
            "nodes_total": len(self.nodes),
            "current_node": self._current,
            "current_node_class": name,
            "step": step,
            "steps": steps,
            "message": message,
        }

    def _read_states(self) -> dict[str, float]:
        """The nodes of the graph that run, and how far they are; those that are done are noted. Of
        a node that was put in by another one that one counts."""
        running: dict[str, float] = {}
        states = {} if self._states is None else self._states.states()
        for node, state in states.items():
            if node not in self.nodes or not isinstance(state, dict):
                continue
            if state.get("state") == "finished":
                self._done.add(node)
            elif state.get("state") == "running":
                running[node] = share(state)
        if self._current not in running and running:
            self._current = next(iter(running))
        return running

    def _steps(self, running: Mapping[str, float]) -> tuple[int | None, int | None]:
        """Step and steps of the current node; None if it has told of none."""
        if self._step is None or self._step.node != self._current:
            return None, None
        try:
            data = loads(self._step.frame.data)["data"]
            step, steps = int(data["value"]), int(data["max"])
        except (KeyError, OverflowError, TypeError, ValueError):
            return None, None
        return (step, steps) if steps > 0 else (None, None)
