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

MAX_TOLD: Final = 100
"""References without a file that are told; of more of them it is told how many there are."""
MAX_ID_CHARS: Final = 200
"""Characters of the id or hash of a reference; one that is longer means no file, and is cut off
where it is told."""

Find = Callable[[Mapping[str, str]], FileName | None]
"""The file that ``id`` and ``hash`` of a reference mean; None if there is none."""


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
        more = len(missing) - MAX_TOLD
        told = ", ".join(missing[:MAX_TOLD]) + (f" and {more} more" if more > 0 else "")
        raise UnprocessableError(
            f"These assets are not known: {told}.",
            code="missing_asset",
            details={"missing_ids": missing[:MAX_TOLD]},
        )


def _name(reference: Mapping[str, Any], find: Find, missing: list[str]) -> str:
    info = reference.get("info")
    given = {
        key: value[: MAX_ID_CHARS + 1]
        for key in ("id", "hash")
        if isinstance(info, dict) and isinstance(value := info.get(key), str)
    }
    file = find(given)
    if file is None:
        missing.append(given.get("id", "<no id>")[:MAX_ID_CHARS])
        return ""
    return annotated(file)
