"""How far one prompt is: a state machine fed with frames. Pure, no I/O, no clock.

Frames come in the order of ComfyUI's ``execution.py``. Progress is what ComfyUI reported: nodes
that ended, plus the fraction of the one that runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from comfy_proxy.cluster.comfyui_frames import PictureFrame, PromptFrame
from comfy_proxy.cluster.prompt_outcomes import node_error
from comfy_proxy.errors import (
    InterruptedPromptError,
    InvalidAnswerError,
    JobError,
    WorkflowError,
)

RUN_ANEW: Final = "comfy_proxy_run_anew"


class Phase(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Nothing comes after it."""
        return self in (Phase.SUCCEEDED, Phase.FAILED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """A prompt ready to be sent.

    ``output_nodes`` carry the results, every node that tells of some if it is empty: as binary
    frames if ``by_frame`` (the class of the one node is ``SaveImageWebsocket``), else as files to
    be fetched from ``/view``, texts and data.
    """

    prompt: Mapping[str, Any] = field(repr=False)
    output_nodes: frozenset[str]
    by_frame: bool

    def takes(self, node: str | None) -> bool:
        """The results of ``node`` count."""
        return not self.output_nodes or node in self.output_nodes

    def run_anew(self, token: str) -> Graph:
        """The same with ``token``, which no prompt had before, in all nodes that tell of results
        and in those that nobody reads: none of them comes from ComfyUI's cache.

        An input that its class does not know is a part of what a node is cached by, and nothing
        else (``comfy_execution/caching.py``).
        """
        values = [value for node in self.prompt.values() for value in node["inputs"].values()]
        links = [value for value in values if isinstance(value, list) and value]
        read = {link[0] for link in links if isinstance(link[0], str)}
        prompt = {
            node_id: {**node, "inputs": {**node["inputs"], RUN_ANEW: token}}
            if node_id in self.output_nodes or node_id not in read
            else node
            for node_id, node in self.prompt.items()
        }
        return replace(self, prompt=prompt)


class PromptExecution:
    """Follows one prompt id; :meth:`feed` says whether a frame brought news of it."""

    def __init__(self, graph: Graph, prompt_id: str) -> None:
        self.graph = graph
        self.prompt_id = prompt_id
        self.phase = Phase.QUEUED
        self.current_node: str | None = None
        self.pictures: list[bytes] = []
        self.preview: PictureFrame | None = None
        self.outputs: dict[str, Mapping[str, Any]] = {}
        self.error: JobError | None = None
        self._done: set[str] = set()
        self._node_fraction = 0.0
        self._percentage = 0.0

    @property
    def percentage(self) -> float:
        """0–100, never falling."""
        if self.phase is Phase.SUCCEEDED:
            return 100.0
        done = len(self._done) + self._node_fraction
        self._percentage = max(self._percentage, 100.0 * done / len(self.graph.prompt))
        return min(self._percentage, 100.0)

    def feed(self, frame: PromptFrame | PictureFrame) -> bool:
        if isinstance(frame, PictureFrame):
            return self._take_picture(frame)
        if frame.prompt_id != self.prompt_id or self.phase.ended:
            return False
        handler = getattr(self, f"_on_{frame.type}", None)
        if handler is None:
            return False
        try:
            handler(frame.data)
        except (TypeError, ValueError, AttributeError):
            return False  # malformed: no news
        return True

    def take_history(self, entry: Mapping[str, Any]) -> None:
        """End by what ``/history/{id}`` tells, after the events were missed (PROTOCOL.md trap 4).

        Raises InvalidAnswerError for an entry that is none.
        """
        try:
            status = entry.get("status") or {}
            for node, output in (entry.get("outputs") or {}).items():
                told = {"node": node, "output": output}
                self.feed(PromptFrame(type="executed", prompt_id=self.prompt_id, data=told))
            for kind, data in status.get("messages") or ():
                if kind in ("execution_error", "execution_interrupted"):
                    self.feed(PromptFrame(type=kind, prompt_id=self.prompt_id, data=data))
        except (TypeError, ValueError, AttributeError) as error:
            raise InvalidAnswerError("An entry of /history is not as ComfyUI writes it.") from error
        if not self.phase.ended and status.get("status_str") == "error":
            self._fail(WorkflowError("ComfyUI reports an error without a reason."))
        if not self.phase.ended:
            self.phase = Phase.SUCCEEDED

    # --- one method for each type of text frame ----------------------------------------------

    def _on_execution_start(self, data: Mapping[str, Any]) -> None:
        self.phase = Phase.RUNNING

    def _on_execution_cached(self, data: Mapping[str, Any]) -> None:
        self._done.update(node for node in data.get("nodes") or () if node in self.graph.prompt)

    def _on_executing(self, data: Mapping[str, Any]) -> None:
        node = data.get("node")
        self._finish_current()
        if node is None:
            # Old servers tell the end by this alone; the newer ones told it before.
            self.phase = Phase.SUCCEEDED
        else:
            self.phase = Phase.RUNNING
            self.current_node = str(node)

    def _on_progress(self, data: Mapping[str, Any]) -> None:
        maximum = float(data.get("max") or 0)
        if maximum > 0:
            self._node_fraction = min(float(data.get("value") or 0) / maximum, 1.0)

    def _on_executed(self, data: Mapping[str, Any]) -> None:
        # Of a node that was added at run time `display_node` is the one of the graph.
        node, output = str(data.get("display_node") or data.get("node")), data.get("output")
        if output is not None and not isinstance(output, dict):
            raise TypeError("the output of a node is a JSON object")
        if output and self.graph.takes(node):
            self.outputs[node] = output

    def _on_execution_success(self, data: Mapping[str, Any]) -> None:
        self._finish_current()
        self.phase = Phase.SUCCEEDED

    def _on_execution_error(self, data: Mapping[str, Any]) -> None:
        self._fail(node_error(data))

    def _on_execution_interrupted(self, data: Mapping[str, Any]) -> None:
        self._fail(InterruptedPromptError("The prompt was interrupted at the instance."))

    # --- helpers -----------------------------------------------------------------------------

    def _finish_current(self) -> None:
        node, self.current_node = self.current_node, None
        if node is not None and node in self.graph.prompt:  # not one that was added at run time
            self._done.add(node)
        self._node_fraction = 0.0

    def lose_frames(self) -> None:
        """The socket is lost: of a batch of pictures some may not have come."""
        if not self._done.issuperset(self.graph.output_nodes):
            self.pictures.clear()

    def _take_picture(self, frame: PictureFrame) -> bool:
        """Strangers' frames arrive on the same socket: ours name us or come in turn.

        See PROTOCOL.md trap 10.
        """
        if frame.prompt_id not in (None, self.prompt_id) or self.phase is not Phase.RUNNING:
            return False
        if self.current_node is None:
            return False
        node = frame.node_id or self.current_node
        if self.graph.by_frame and self.graph.takes(node):
            self.pictures.append(frame.data)
            return False
        self.preview = frame
        return True

    def _fail(self, error: JobError) -> None:
        self.phase = Phase.FAILED
        self.error = error
