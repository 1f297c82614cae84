"""References to assets in a graph: each becomes the name of the file, as ComfyUI's nodes take it.

``{"__type": "core/ASSET", "info": {"id": …}}``. The id decides; a hash beside it counts only if
the id is not known, so that a client which uploaded the same bytes before goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from comfy_proxy.comfy_api.errors import UnprocessableError
from comfy_proxy.gateway.files.file_name import FileName, annotated

TYPE: Final = "core/ASSET"

Find = Callable[[Mapping[str, Any]], FileName | None]
"""The file that the ``info`` of a reference means; None if there is none."""


def resolve(graph: dict[str, Any], find: Find) -> None:
    """Put names in place of all references in ``graph``.

    Raises UnprocessableError (``missing_asset``), with the ids of those that mean no file.
    """
    missing: list[str] = []
    left: list[Any] = [graph]
    while left:
        part = left.pop()
        items = part.items() if isinstance(part, dict) else enumerate(part)
        for key, value in list(items):
            if isinstance(value, dict) and value.get("__type") == TYPE:
                part[key] = _name(value, find, missing)
            elif isinstance(value, dict | list):
                left.append(value)
    if missing:
        raise UnprocessableError(
            f"These assets are not known: {', '.join(missing)}.",
            code="missing_asset",
            details={"missing_ids": missing},
        )


def _name(reference: Mapping[str, Any], find: Find, missing: list[str]) -> str:
    info = reference.get("info")
    file = find(info) if isinstance(info, dict) else None
    if file is None:
        given = info.get("id") if isinstance(info, dict) else None
        missing.append(str(given) if given is not None else "<no id>")
        return ""
    return annotated(file)
