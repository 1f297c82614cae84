"""Graphs in ComfyUI's API format: a template filled in for one request on one instance."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from comfy_proxy.jobs.workflows.graph import Graph
from comfy_proxy.jobs.workflows.parameter import Scalar

SOCKET_CLASS: Final = "SaveImageWebsocket"
"""The node class that sends its pictures as frames on the socket."""
PREVIEW_CLASS: Final = "PreviewImage"
"""The node class that writes them as temporary files."""
FIRST_FRAME_CLASSES: Final = ("ImageFromBatch", "MaskToImage", "ImageToMask")
"""The node classes by which the first frame of an animation is taken."""

_NUMBER: Final = re.compile(r"[0-9]{1,18}")
"""Longer ones are no ids of ComfyUI's editor; Python takes no number of thousands of digits."""

Prompt = dict[str, dict[str, Any]]
"""ComfyUI's API format: node id → ``{"class_type", "inputs"}``."""
Link = tuple[str, int]
"""Node id and output slot."""
Input = tuple[str, str]
"""Node id and the name of an input."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A variant that an instance can run, with all values to fill in but the names of the uploads.

    ``files`` has, for each file that was given, the inputs that take its name; ``animated`` are
    those of which the first frame is to be used. ``outputs`` is a link that yields an IMAGE, for
    which an output node is added, or the ids of the output nodes whose results count: all of them
    if it is empty. ``by_frame``: the pictures come on the socket, not as files (PROTOCOL.md
    trap 10).
    """

    variant: str
    graph: Prompt
    values: Mapping[Input, Scalar]
    files: Mapping[str, tuple[Input, ...]]
    outputs: Link | frozenset[str]
    by_frame: bool
    animated: frozenset[str]

    def build(self, names: Mapping[str, str]) -> Graph:
        """The graph, made anew each time; ``names``: parameter → what the instance calls its file.

        A file without a name there is as its author wrote it: for those who look at the graph only.
        """
        prompt = copy.deepcopy(self.graph)
        for (node, name), value in self.values.items():
            prompt[node]["inputs"][name] = value
        for parameter, inputs in self.files.items():
            for node, name in inputs:
                if parameter in names:
                    prompt[node]["inputs"][name] = names[parameter]
        outputs = self.outputs
        for parameter in self.animated:
            outputs = _take_first_frame(prompt, self.files[parameter], outputs)
        if isinstance(outputs, tuple):
            class_name = SOCKET_CLASS if self.by_frame else PREVIEW_CLASS
            outputs = frozenset((_add(prompt, class_name, images=list(outputs)),))
        return Graph(prompt=prompt, output_nodes=outputs, by_frame=self.by_frame)


def _take_first_frame(
    prompt: Prompt, sources: tuple[Input, ...], outputs: Link | frozenset[str]
) -> Link | frozenset[str]:
    """Put an ImageFromBatch behind each loader of the picture; returns where the output is now.

    LoadImage yields one picture for each frame of an animation (trap 26), as IMAGE (slot 0) and
    MASK (slot 1). ``prompt`` is changed in place.
    """
    loaders = dict.fromkeys(node for node, _ in sources)
    for loader in (node for node in loaders if prompt[node]["class_type"] == "LoadImage"):
        rerouted: dict[Link, str] = {}
        readers = [node["inputs"] for node in prompt.values()]
        for slot in (0, 1):
            links = [
                (inputs, name)
                for inputs in readers
                for name, value in inputs.items()
                if value == [loader, slot]
            ]
            if links or outputs == (loader, slot):
                rerouted[loader, slot] = first = _first_frame(prompt, loader, slot)
                for inputs, name in links:
                    inputs[name] = [first, 0]
        if isinstance(outputs, tuple) and outputs in rerouted:
            outputs = (rerouted[outputs], 0)
    return outputs


def _first_frame(prompt: Prompt, loader: str, slot: int) -> str:
    source = [loader, slot]
    if slot == 1:  # ImageFromBatch takes no MASK: it goes there as an IMAGE and comes back
        source = [_add(prompt, "MaskToImage", mask=source), 0]
    first = _add(prompt, "ImageFromBatch", image=source, batch_index=0, length=1)
    return _add(prompt, "ImageToMask", image=[first, 0], channel="red") if slot == 1 else first


def _add(prompt: Prompt, class_name: str, **inputs: Any) -> str:
    """Add a node under the number after the highest one in use; returns its id."""
    used = [int(node) for node in prompt if _NUMBER.fullmatch(node)]
    number = max(used, default=0) + 1
    while (node := str(number)) in prompt:
        number += 1
    prompt[node] = {"class_type": class_name, "inputs": inputs}
    return node
