"""Graphs in ComfyUI's API format: a template filled in for one picture on one instance."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from comfy_proxy.cluster.prompt_execution import Graph
from comfy_proxy.jobs.parameters import Scalar

SOCKET_CLASS: Final = "SaveImageWebsocket"
PREVIEW_CLASS: Final = "PreviewImage"
FIRST_FRAME_CLASSES: Final = ("ImageFromBatch", "MaskToImage", "ImageToMask")

Prompt = dict[str, dict[str, Any]]
"""ComfyUI's API format: node id → ``{"class_type", "inputs"}``."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A variant that an instance can run, with all values to fill in but the name of the upload.

    ``values`` and ``picture_inputs`` name inputs as (node id, input). ``output`` is a link (node
    id, slot) that yields an IMAGE, or the id of an output node. ``by_frame``: the picture comes on
    the socket, not as a file (PROTOCOL.md trap 10).
    """

    variant: str
    graph: Prompt
    values: Mapping[tuple[str, str], Scalar]
    picture_inputs: tuple[tuple[str, str], ...]
    output: tuple[str, int] | str
    by_frame: bool
    first_frame_only: bool

    def build(self, image_name: str) -> Graph:
        """The graph for an upload that the instance calls ``image_name``, made anew each time."""
        prompt = copy.deepcopy(self.graph)
        for (node, name), value in self.values.items():
            prompt[node]["inputs"][name] = value
        for node, name in self.picture_inputs:
            prompt[node]["inputs"][name] = image_name
        output = self.output
        if self.first_frame_only:
            output = _take_first_frame(prompt, self.picture_inputs, output)
        if not isinstance(output, str):
            class_name = SOCKET_CLASS if self.by_frame else PREVIEW_CLASS
            output = _add(prompt, class_name, images=list(output))
        return Graph(prompt=prompt, output_node=output, by_frame=self.by_frame)


def _take_first_frame(
    prompt: Prompt, sources: tuple[tuple[str, str], ...], output: tuple[str, int] | str
) -> tuple[str, int] | str:
    """Put an ImageFromBatch behind each loader of the picture; returns where the output is now.

    LoadImage yields one picture for each frame of an animation (trap 26), as IMAGE (slot 0) and
    MASK (slot 1), and a job has one result. ``prompt`` is changed in place.
    """
    for loader in dict.fromkeys(node for node, _ in sources):
        rerouted: dict[tuple[str, int], str] = {}
        readers = [node["inputs"] for node in prompt.values()]
        for slot in (0, 1):
            links = [
                (inputs, name)
                for inputs in readers
                for name, value in inputs.items()
                if value == [loader, slot]
            ]
            if links or output == (loader, slot):
                rerouted[loader, slot] = first = _first_frame(prompt, loader, slot)
                for inputs, name in links:
                    inputs[name] = [first, 0]
        if not isinstance(output, str) and output in rerouted:
            output = (rerouted[output], 0)
    return output


def _first_frame(prompt: Prompt, loader: str, slot: int) -> str:
    source = [loader, slot]
    if slot == 1:  # ImageFromBatch takes no MASK: it goes there as an IMAGE and comes back
        source = [_add(prompt, "MaskToImage", mask=source), 0]
    first = _add(prompt, "ImageFromBatch", image=source, batch_index=0, length=1)
    return _add(prompt, "ImageToMask", image=[first, 0], channel="red") if slot == 1 else first


def _add(prompt: Prompt, class_name: str, **inputs: Any) -> str:
    """Add a node under the number after the highest one in use; returns its id."""
    used = [int(node) for node in prompt if node.isascii() and node.isdigit()]
    node = str(max(used, default=0) + 1)
    prompt[node] = {"class_type": class_name, "inputs": inputs}
    return node
