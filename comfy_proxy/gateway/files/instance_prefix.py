"""The prefix that tells whose a result is: ``@N`` before the ``subfolder`` of an output. Pure.

Each instance counts its own ``ComfyUI_00001_.png``; the same name on two instances is two pictures
(PROTOCOL.md trap 6). So clients see the subfolders of instance 1 with ``@1`` in front: ``""`` →
``@1``, ``a/b`` → ``@1/a/b``. They send the subfolder back in ``/view`` and in graphs, and the
prefix says which instance to ask, also after a restart of the proxy: nothing is remembered for it.
One whose disk was emptied gets another mark (``@1.1``, see ``disks.py``).

A path with ``..`` never counts as prefixed: ``@1/../x`` means ``x`` of whoever is asked, and
without the prefix it would mean a place outside the directory.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container
from typing import Any

from comfy_proxy.gateway.files.file_name import RESULT_TYPES, climbs, is_hidden_name

_PREFIX = re.compile(r"@(?P<mark>[^/\\]+)(?:[/\\]+(?P<rest>.*))?", re.DOTALL)


def with_prefix(subfolder: str, mark: str) -> str:
    """``subfolder`` of a result as clients see it; ``mark`` is its instance's."""
    return f"@{mark}/{subfolder}" if subfolder else f"@{mark}"


def split_prefix(subfolder: str, marks: Container[str]) -> tuple[str | None, str]:
    """The instance's mark and the subfolder there; ``(None, subfolder)`` if there is no prefix.

    Only the marks of instances as they are now count: any other ``@x`` is a folder that a client
    made, or one of a disk that is gone.
    """
    found = _PREFIX.fullmatch(subfolder)
    if found is None or found["mark"] not in marks or climbs(subfolder):
        return None, subfolder
    return found["mark"], found["rest"] or ""


def prefix_outputs(output: Any, mark: str, kinds: Collection[str] = RESULT_TYPES) -> Any:
    """A copy of ``output`` (JSON) in which each file whose type is of ``kinds`` has the prefix.

    For whatever names files: ``executed``, ``/history``, ``/api/jobs``. A subfolder that looks
    prefixed gets another prefix (``@2/@1``): it is a folder of that instance, which a client's
    ``filename_prefix`` or a copy for that instance made. A name that ``/view`` cannot show
    (with ``..``, or no UTF-8) gets none: no copy could ever be put under the prefixed name.
    """
    if isinstance(output, list):
        return [prefix_outputs(item, mark, kinds) for item in output]
    if not isinstance(output, dict):
        return output
    prefixed = {key: prefix_outputs(value, mark, kinds) for key, value in output.items()}
    if _names_a_file(output, kinds):
        prefixed["subfolder"] = with_prefix(output.get("subfolder") or "", mark)
    return prefixed


def _names_a_file(item: dict[str, Any], kinds: Collection[str]) -> bool:
    kind = item.get("type")
    return (
        isinstance(name := item.get("filename"), str)
        and not is_hidden_name(name)
        and isinstance(kind, str)
        and kind in kinds
        and isinstance(item.get("subfolder") or "", str)
    )
