"""The files that a graph names, and how they get to where it is to run (PROTOCOL.md trap 18).

Graphs are never rewritten (trap 16): each file is put under exactly the path that the graph names.

A graph may name a folder of the input directory: it then needs all files in it. Those are known
that came through here as uploads; what somebody put into the folder of one instance by hand, or
uploaded before the proxy was restarted, no route of ComfyUI lists (``/internal/files/input`` has
the files directly in the directory), so such files stay where they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.gateway.files.file_holders import FileHolders
from comfy_proxy.gateway.files.file_name import FileName, climbs, is_hidden, split_annotated
from comfy_proxy.gateway.files.file_staging import FileStaging
from comfy_proxy.gateway.files.records import UploadRecords

CONCURRENT_FILES = 8
"""Files that are brought to one instance for one prompt at once. A folder may have a thousand, and
each question is to be answered in ``client.LOOK_TIMEOUT_S``, the wait for a connection included."""
MAX_NAME_CHARS: Final = 4096
"""Characters of a text that may be the name of a folder; Linux has no longer paths. A longer one,
as a picture in base64, is passed over: 16 MB took 20 ms, several times."""


def files_in_graph(prompt: Mapping[str, Any], node_info: NodeCatalog) -> list[FileName]:
    """The files that the nodes of ``prompt`` name, each once, in order.

    Absolute and climbing paths are left out: whether they work is the instance's own matter.
    """
    names = (name for node in prompt.values() for name in _names(node, node_info))
    files = (split_annotated(name) for name in names if _can_be_staged(name))
    return list(dict.fromkeys(file for file in files if file.filename))


def folder_files_in_graph(
    prompt: Mapping[str, Any], node_info: NodeCatalog, uploads: UploadRecords
) -> list[FileName]:
    """The uploads below the folders that the nodes of ``prompt`` choose, each once.

    A folder is what an input chooses from a list, or has in a class that is not known, if uploads
    lie below a folder of that name.
    """
    names = (name for node in prompt.values() for name in _chosen(node, node_info))
    folders = dict.fromkeys(name.replace("\\", "/").strip("/") for name in names)
    return list(dict.fromkeys(file for folder in folders for file in uploads.below(folder)))


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
        """The files that ``graph`` needs, as the classes of ``instance`` read it."""
        named = files_in_graph(graph, self._node_info(instance))
        return list(dict.fromkeys((*named, *self._in_folders(graph, instance))))

    def _in_folders(self, graph: Mapping[str, Any], instance: Instance) -> list[FileName]:
        return folder_files_in_graph(graph, self._node_info(instance), self._files.uploads)

    async def stage(
        self, graph: Mapping[str, Any], instance: Instance, *, fresh: bool = False
    ) -> bool:
        """Bring to ``instance`` what it lacks of the files in ``graph``; never fails.

        False if it must not run there: it has a result of its own under a name by which ``graph``
        means another one, or it could not get a file of a folder that another instance has (it
        would end well, with fewer pictures). ``fresh``: what it was known to hold is asked again,
        after it said that it lacks something.
        """
        if not self._several:
            return True
        if fresh:
            self._files.holdings.forget(instance)
        limit = asyncio.Semaphore(CONCURRENT_FILES)

        async def bring(file: FileName) -> bool:
            async with limit:
                return await self._staging.stage(file, instance, fresh=fresh)

        staged = await asyncio.gather(*map(bring, self.files_in(graph, instance)))
        return all(staged) and not any(
            self._is_elsewhere_only(file, instance) for file in self._in_folders(graph, instance)
        )

    def _is_elsewhere_only(self, file: FileName, instance: Instance) -> bool:
        if self._files.known_to_hold(file, instance):
            return False
        return any(self._files.known_to_hold(file, other) for other in self._files.healthy())

    def held_by(
        self, graph: Mapping[str, Any], instances: Iterable[Instance]
    ) -> dict[Instance, int]:
        """How many of the files in ``graph`` each has, as far as is known; asks nobody."""
        files_by: dict[int, list[FileName]] = {}  # by id() of the classes: many share theirs
        held = {}
        for instance in instances:
            key = id(self._node_info(instance))
            if key not in files_by:
                files_by[key] = self.files_in(graph, instance)
            held[instance] = sum(
                self._files.known_to_hold(file, instance) for file in files_by[key]
            )
        return held


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


def _chosen(node: Any, node_info: NodeCatalog) -> Iterator[str]:
    """The texts that a node chooses from lists, as far as is known."""
    inputs = node.get("inputs") if isinstance(node, dict) else None
    class_name = node.get("class_type") if isinstance(node, dict) else None
    if not isinstance(inputs, dict) or not isinstance(class_name, str):
        return
    node_class = node_info.get(class_name)
    for name, value in inputs.items():
        if not isinstance(value, str) or len(value) > MAX_NAME_CHARS:
            continue
        if node_class is None or node_class.chooses(name) is not False:
            yield value


def _can_be_staged(name: str) -> bool:
    return not name.startswith(("/", "\\")) and not climbs(name) and "\0" not in name
