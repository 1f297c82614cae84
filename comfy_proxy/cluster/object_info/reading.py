"""The text of ``/object_info`` as a catalog, read exactly: its classes are written out again.

Nodes have limits like ``Infinity`` and ``-0xffffffffffffffff``, which must come out as they went in
(see ``lenient_json.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from loguru import logger

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info.catalog import NodeCatalog, NodeClass
from comfy_proxy.errors import InvalidAnswerError
from comfy_proxy.json_scanner import ANY, JsonScanner
from comfy_proxy.lenient_json import loads_exact

_PIECE_BYTES = 65_536
_LONG_BYTES = 2**20
"""A document of that many bytes or more is read in a thread: it takes ten milliseconds and more, in
which nobody else would have a turn."""


async def read_catalog(body: bytes, instance: Instance) -> NodeCatalog:
    """The classes in ``body``, which ``instance`` answered; what is no class is left out.

    Raises InvalidAnswerError for a body that has none, unless it is an empty object.
    """
    if len(body) < _LONG_BYTES:
        return _parsed(body, instance)
    return await asyncio.to_thread(_parsed, body, instance)


def _parsed(body: bytes, instance: Instance) -> NodeCatalog:
    """Class by class: one that cannot be read hides no other, and holds up no thread for long."""
    scanner = JsonScanner({ANY: {}})
    for at in range(0, len(body), _PIECE_BYTES):
        scanner.feed(body[at : at + _PIECE_BYTES])
    root = scanner.result()
    if root is None or root.members is None or not root.is_object:
        raise InvalidAnswerError(f"/object_info of {instance.host} is no JSON object.")
    classes: dict[str, NodeClass] = {}
    for member in root.members:
        name, info = member.name(), _info(body[member.start : member.end])
        if name is not None and info is not None:
            classes[name] = NodeClass(name, info)
        else:
            logger.debug("{} of {} is no node class", name, instance.host)
    if root.members and not classes:
        raise InvalidAnswerError(f"/object_info of {instance.host} has no node classes.")
    return NodeCatalog(classes)


def _info(text: bytes) -> Mapping[str, Any] | None:
    try:
        info = loads_exact(text)
    except ValueError:
        return None
    return info if isinstance(info, dict) else None
