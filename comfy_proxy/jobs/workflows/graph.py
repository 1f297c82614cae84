"""A graph that is ready to be sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

RUN_ANEW: Final = "comfy_proxy_run_anew"
"""Name of the input that keeps a node's result from coming out of ComfyUI's cache."""


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
        else (``CacheKeySetInputSignature`` in ComfyUI).
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
