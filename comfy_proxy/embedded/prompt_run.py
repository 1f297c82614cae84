"""Executes one prompt: the nodes in order, each told as it begins and ends."""

import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from PIL import Image

from comfy_proxy.embedded.folders import Folders
from comfy_proxy.embedded.graph import ExecutionList, is_link
from comfy_proxy.embedded.node_cache import CacheEntry, NodeCache
from comfy_proxy.embedded.nodes.node_class import Json, NodeClass, Result
from comfy_proxy.embedded.prompt_queue import PromptResult, QueueItem
from comfy_proxy.embedded.run_events import RunEvents
from comfy_proxy.embedded.validation import full_type_name
from comfy_proxy.embedded.websocket import Sockets


class Interrupted(Exception):  # noqa: N818 (somebody's wish, no error)
    """The running prompt was asked to end."""


class Outside(Protocol):
    """What a run needs from the worker around it; every method may be called from its thread.

    Its events go to `sockets`.
    """

    folders: Folders
    sockets: Sockets

    def executing(self, node_id: str) -> None:
        """Remember the node for a client that reconnects in mid-run (PROTOCOL.md trap 14)."""

    def before_node(self, class_type: str) -> None:
        """Called when a node starts; the faults `die_at_node` and `slow_node_s` strike here."""

    def completed(self, prompt_id: str) -> None:
        """Called when all nodes have run, before anybody is told."""

    def named(self, ui: Json, prompt_id: str) -> Json:
        """What a node shows, with ids of assets if the worker has any."""

    def check_interrupt(self) -> None:
        """Raises Interrupted."""

    def wait_until(self, deadline: float) -> None:
        """Sleeps until the monotonic deadline; raises Interrupted."""

    def save(self, picture: Image.Image, path: Any, **options: Any) -> None:
        """Writes a picture; raises OSError on a full disk."""


class PromptRun:
    """One prompt from `execution_start` to `execution_success`, `…_error` or `…_interrupted`."""

    def __init__(
        self,
        item: QueueItem,
        classes: Mapping[str, NodeClass],
        cache: NodeCache,
        outside: Outside,
    ) -> None:
        self.item = item
        self.outside = outside
        self.client_id: str | None = item.extra_data.get("client_id")
        self._classes = classes
        self._cache = cache
        self._events = RunEvents(item.prompt_id, self.client_id, outside.sockets)
        self._executed: list[str] = []
        self._ui: dict[str, Json] = {}

    def execute(self) -> PromptResult:
        """Run to the end, whichever it is. Never raises for a failing node."""
        graph = self.item.graph
        self._events.announce("execution_start", self._prompt())
        self._cache.set_prompt(graph, self._classes, self.outside.folders)
        cached = [node_id for node_id in graph if self._cache.get(node_id) is not None]
        self._events.announce("execution_cached", {"nodes": cached} | self._prompt())
        success = self._run_nodes(
            ExecutionList(graph, self.item.outputs, self._is_cached, self._is_output)
        )
        if success:
            self.outside.completed(self.item.prompt_id)
            self._events.announce("execution_success", self._prompt())
        return PromptResult(
            success=success,
            messages=self._events.messages,
            outputs={node_id: ui["output"] for node_id, ui in self._ui.items()},
            meta={node_id: ui["meta"] for node_id, ui in self._ui.items()},
        )

    def progress(self, node_id: str, value: int, maximum: int, preview: Image.Image | None) -> None:
        """Move a node's bar. Raises Interrupted if somebody asked for that."""
        self.outside.check_interrupt()
        self._events.progress(node_id, value, maximum, preview)

    def _run_nodes(self, execution_list: ExecutionList) -> bool:
        while execution_list:
            node_id = execution_list.next()
            if not self._run_node(node_id):
                return False
            execution_list.complete(node_id)
        return True

    def _run_node(self, node_id: str) -> bool:
        if (entry := self._cache.get(node_id)) is not None:
            self._serve_cached(node_id, entry)
            return True
        self._events.started(node_id)
        node = self.item.graph[node_id]
        inputs = self._inputs(node)
        if self.client_id is not None:
            self.outside.executing(node_id)
            self._events.executing(node_id)
        try:
            self.outside.check_interrupt()
            self.outside.before_node(node["class_type"])
            result = self._classes[node["class_type"]].run(NodeRun(self, node_id), inputs)
        except Interrupted:
            self._report_interrupt(node_id)
            return False
        except Exception as error:
            self._report_error(node_id, inputs, error)
            return False
        self._finish(node_id, result)
        return True

    def _inputs(self, node: Json) -> Json:
        """Constants and results of other nodes; what the class does not declare is left out."""
        node_class = self._classes[node["class_type"]]
        declared = node_class.entry["input"]
        known = {name for group in declared.values() for name in group}
        values: Json = {}
        for name, value in node["inputs"].items():
            if is_link(value):
                entry = self._cache.get(value[0])
                values[name] = None if entry is None else entry.outputs[int(value[1])]
            elif name in known:
                values[name] = value
        return values

    def _finish(self, node_id: str, result: Result) -> None:
        if result.ui:
            meta: Json = {"node_id": node_id, "display_node": node_id, "parent_node": None}
            meta["real_node_id"] = node_id
            output = self.outside.named(dict(result.ui), self.item.prompt_id)
            self._ui[node_id] = {"meta": meta, "output": output}
            self._events.executed(node_id, output)
        self._cache.set(node_id, CacheEntry(outputs=result.outputs, ui=self._ui.get(node_id)))
        self._events.finished(node_id)
        self._executed.append(node_id)

    def _serve_cached(self, node_id: str, entry: CacheEntry) -> None:
        # Without a client_id the real server sends no `executed` for a cached result, and leaves it
        # out of the history too. With one it names the first run's file (PROTOCOL.md
        # trap 17).
        if self.client_id is not None:
            self._events.executed(node_id, entry.ui["output"] if entry.ui else None)
            if entry.ui is not None:
                self._ui[node_id] = entry.ui
        self._events.finished(node_id)

    def _is_cached(self, node_id: str) -> bool:
        return self._cache.get(node_id) is not None

    def _is_output(self, node_id: str) -> bool:
        return self._classes[self.item.graph[node_id]["class_type"]].is_output

    def _where(self, node_id: str) -> Json:
        node_type = self.item.graph[node_id]["class_type"]
        node = {"node_id": node_id, "node_type": node_type, "executed": list(self._executed)}
        return self._prompt() | node

    def _prompt(self) -> Json:
        return {"prompt_id": self.item.prompt_id}

    def _report_interrupt(self, node_id: str) -> None:
        self._events.announce("execution_interrupted", self._where(node_id), broadcast=True)

    def _report_error(self, node_id: str, inputs: Json, error: Exception) -> None:
        _, _, trace = sys.exc_info()
        shown = {name: [_shown(value)] for name, value in inputs.items()}
        details = {
            "exception_message": f"{error}\n{getattr(error, 'tips', '')}",
            "exception_type": full_type_name(type(error)),
            "traceback": traceback.format_tb(trace),
            "current_inputs": shown,
            "current_outputs": list(self.item.graph),
        }
        self._events.announce("execution_error", self._where(node_id) | details)


class NodeRun:
    """What one running node sees of its run: the `Context` of `nodes/node_class.py`."""

    def __init__(self, run: PromptRun, node_id: str) -> None:
        self._run = run
        self._node_id = node_id
        self.folders = run.outside.folders
        self.graph = run.item.graph
        self.extra_pnginfo: Json | None = run.item.extra_data.get("extra_pnginfo")
        self.save: Callable[..., None] = run.outside.save
        self.wait_until = run.outside.wait_until

    @property
    def temp_prefix(self) -> str:
        class_type = self.graph[self._node_id]["class_type"]
        return self._run._cache.temp_prefix(self._node_id, class_type)

    def progress(self, value: int, maximum: int, preview: Image.Image | None = None) -> None:
        self._run.progress(self._node_id, min(value, maximum), maximum, preview)


def _shown(value: object) -> object:
    """A value in an error report: plain ones as they are, pictures and masks as text."""
    return value if value is None or isinstance(value, int | float | str) else str(value)
