"""A graph that is ready to be sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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
