"""The files that a graph names, and how they get to the instance that is to run it (trap 18).

Graphs are never rewritten (trap 16): each file is put under exactly the path that the graph names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.cluster.ownership import FileName
from comfy_proxy.gateway.files.marks import climbs, is_hidden, split_annotated

if TYPE_CHECKING:
    from comfy_proxy.gateway.gateway import Gateway


def files_in_graph(prompt: Mapping[str, Any], node_info: NodeCatalog) -> list[FileName]:
    """The files that the nodes of ``prompt`` name, each once, in order.

    Absolute and climbing paths are left out: whether they work is the instance's own matter.
    """
    names = (name for node in prompt.values() for name in _names(node, node_info))
    files = (split_annotated(name) for name in names if _can_be_staged(name))
    return list(dict.fromkeys(file for file in files if file.filename))


async def stage_inputs(
    prompt: Mapping[str, Any],
    instance: Instance,
    gateway: Gateway,
    node_info: NodeCatalog,
    *,
    fresh: bool = False,
) -> bool:
    """Bring to ``instance`` what it lacks of the files in ``prompt``; never fails.

    False if it has a result of its own under a name by which ``prompt`` means another one: it must
    not run there. ``fresh``: what it was known to hold is asked again, after it said that it lacks
    something.
    """
    if not gateway.several:
        return True
    if fresh:
        gateway.files.holdings.forget(instance)
    files = files_in_graph(prompt, node_info)
    staged = await asyncio.gather(
        *(gateway.files.stage(file, instance, fresh=fresh) for file in files)
    )
    return all(staged)


def has_inputs(
    prompt: Mapping[str, Any], instance: Instance, gateway: Gateway, node_info: NodeCatalog
) -> int:
    """How many of the files in ``prompt`` the instance has, as far as is known; asks nobody."""
    files = files_in_graph(prompt, node_info)
    return sum(gateway.files.known_to_hold(file, instance) for file in files)


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
