"""Asset answers as clients see them: their URLs lead to the instance that has the file. Pure.

An instance says ``"preview_url": "/api/view?type=output&filename=c_00001_.png"``. Another instance
may have another picture under that name (PROTOCOL.md trap 6), so a result's ``subfolder`` gets the
mark of its instance, as in all outputs (``files/instance_prefix.py``): ``…&subfolder=%401``. Inputs
get none: they are the same everywhere.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.exchange.target import quoted, with_parameter
from comfy_proxy.gateway.files.file_name import RESULT_TYPES, split_annotation
from comfy_proxy.gateway.files.instance_prefix import with_prefix
from comfy_proxy.gateway.files.shared_storage import SharedStorage

_VIEW = re.compile(r"[^?#]*/view\?[^#]*")
MAX_DEPTH = 50
"""Lists and objects in one another; an asset has three."""
_NOT_OURS = ("user_metadata", "metadata", "name", "tags")
"""What clients wrote or a file says of itself: a URL in it is left as it is."""


def marked(data: Any, instance: Instance, storage: SharedStorage) -> Any:
    """A copy of ``data`` (JSON of ``instance``) whose URLs of ``/view`` name ``instance``.

    A file of a directory that all instances share needs no mark and gets none. What stands deeper
    than ``MAX_DEPTH`` is none of ComfyUI's own, and left as it is.
    """
    return _marked(data, instance, storage, MAX_DEPTH)


def _marked(data: Any, instance: Instance, storage: SharedStorage, depth: int) -> Any:
    if depth == 0:
        return data
    if isinstance(data, list):
        return [_marked(item, instance, storage, depth - 1) for item in data]
    if isinstance(data, dict):
        return {
            key: value if key in _NOT_OURS else _marked(value, instance, storage, depth - 1)
            for key, value in data.items()
        }
    if isinstance(data, str) and _VIEW.fullmatch(data):
        return _marked_url(data, instance, storage)
    return data


def _marked_url(url: str, instance: Instance, storage: SharedStorage) -> str:
    query = dict(parse_qsl(url.partition("?")[2], keep_blank_values=True))
    filename, kind = split_annotation(query.get("filename", ""))
    kind = kind or query.get("type", "output")
    if kind not in RESULT_TYPES or storage.is_common(kind):
        return url
    if not filename or ".." in filename or filename.startswith("blake3:"):
        return url  # /view refuses the name, or finds the file by its hash wherever it is
    subfolder = with_prefix(query.get("subfolder", ""), instance.mark)
    if "subfolder" in query:
        return with_parameter(url, "subfolder", subfolder)
    return f"{url}&subfolder={quoted(subfolder)}"
