"""ComfyUI's lists of the files in its folders, asked for: small requests, one after the other.

``/models`` has the names of the folders, ``/models/{folder}`` the files below one (ComfyUI keeps
the list until a directory's time changes), ``/internal/files/input`` the files directly in the
input directory. No route lists the folders in it: a node class that does is asked for instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote

from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.object_info.changes import FolderLists
from comfy_proxy.errors import InstanceRefusedError

MAX_FOLDERS: Final = 200
"""Folders of models that are looked at; changes in others are seen when all classes are asked."""
_NO_MODELS: Final = frozenset({"custom_nodes", "configs"})
"""Folders that ComfyUI names among those of models: the first has every file of every custom node,
and no class lets choose from it."""
_INPUTS: Final = "internal/files/input"


async def folder_lists(
    client: ComfyUIClient, known: FolderLists | None, folder_class: str | None
) -> FolderLists:
    """What the instance lists now; ``known`` spares the question which folders there are.

    ``folder_class`` is a class that lists the folders of the input directory, if one is known.
    Raises InstanceError; a list that is refused is left out.
    """
    names = known.models if known else await _or_none(client, "models")
    models = {
        name: listed
        for name in _folders(names or ())
        if (listed := await _or_none(client, f"models/{quote(name, safe='')}")) is not None
    }
    inputs = {}
    if (listed := await _or_none(client, _INPUTS)) is not None:
        inputs[_INPUTS] = listed
    if folder_class is not None and (info := await _info(client, folder_class)) is not None:
        inputs[folder_class] = info
    return FolderLists(models=models, inputs=inputs)


def _folders(names: Any) -> list[str]:
    usable = (name for name in names if isinstance(name, str) and name.isprintable())
    return [name for name in usable if name and name not in _NO_MODELS][:MAX_FOLDERS]


async def _or_none(client: ComfyUIClient, path: str) -> Any:
    try:
        listed = await client.json("GET", path)
    except InstanceRefusedError:
        return None
    return listed if isinstance(listed, Iterable) else None


async def _info(client: ComfyUIClient, class_name: str) -> Any:
    try:
        return await client.node_info(class_name)
    except InstanceRefusedError:  # a slash in its name, say
        return None
