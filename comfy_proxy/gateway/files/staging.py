"""The files that a graph names, and how they get to where it is to run (PROTOCOL.md trap 18).

Graphs are never rewritten (trap 16): each file is put under exactly the path that the graph names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.gateway.files.file_holders import FileHolders
from comfy_proxy.gateway.files.file_name import FileName, climbs, is_hidden, split_annotated
from comfy_proxy.gateway.files.file_staging import FileStaging


def files_in_graph(prompt: Mapping[str, Any], node_info: NodeCatalog) -> list[FileName]:
    """The files that the nodes of ``prompt`` name, each once, in order.

    Absolute and climbing paths are left out: whether they work is the instance's own matter.
    """
    names = (name for node in prompt.values() for name in _names(node, node_info))
    files = (split_annotated(name) for name in names if _can_be_staged(name))
    return list(dict.fromkeys(file for file in files if file.filename))


class InputStaging:
    """Brings the files that graphs name. ``node_info`` tells what is known of an instance's
    ``/object_info``; ``several`` is False for a single instance, which keeps what it has."""

    def __init__(
        self,
        files: FileHolders,
        staging: FileStaging,
        node_info: Callable[[Instance], NodeCatalog],
        *,
        several: bool,
    ) -> None:
        self._files = files
        self._staging = staging
        self._node_info = node_info
        self._several = several

    def files_in(self, graph: Mapping[str, Any], instance: Instance) -> list[FileName]:
        """The files that ``graph`` names, as the classes of ``instance`` read it."""
        return files_in_graph(graph, self._node_info(instance))

    async def stage(
        self, graph: Mapping[str, Any], instance: Instance, *, fresh: bool = False
    ) -> bool:
        """Bring to ``instance`` what it lacks of the files in ``graph``; never fails.

        False if it has a result of its own under a name by which ``graph`` means another one: it
        must not run there. ``fresh``: what it was known to hold is asked again, after it said that
        it lacks something.
        """
        if not self._several:
            return True
        if fresh:
            self._files.holdings.forget(instance)
        staged = await asyncio.gather(
            *(
                self._staging.stage(file, instance, fresh=fresh)
                for file in self.files_in(graph, instance)
            )
        )
        return all(staged)

    def held(self, graph: Mapping[str, Any], instance: Instance) -> int:
        """How many of the files in ``graph`` it has, as far as is known; asks nobody."""
        return sum(
            self._files.known_to_hold(file, instance) for file in self.files_in(graph, instance)
        )


def cannot_be_found(file: FileName) -> bool:
    """True if no question tells which instance has ``file``: ``/view`` refuses its name, and the
    lists of files have only what lies directly in a directory."""
    return is_hidden(file) and bool(file.subfolder)


def _names(node: Any, node_info: NodeCatalog) -> Iterator[str]:
    inputs = node.get("inputs") if isinstance(node, dict) else None
    class_name = node.get("class_type") if isinstance(node, dict) else None
    if not isinstance(inputs, dict) or not isinstance(class_name, str):
        return
    for input_name in node_info.file_inputs(class_name):
        value = inputs.get(input_name)
        if isinstance(value, str):
            yield value
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            yield from value  # several at once; a link is a string and a number


def _can_be_staged(name: str) -> bool:
    return not name.startswith(("/", "\\")) and not climbs(name) and "\0" not in name
