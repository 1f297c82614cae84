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
from comfy_proxy.cluster.object_info.digests import digest_of
from comfy_proxy.cluster.object_info.single_classes import class_info
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
    names = known.models if known else await _names(client)
    models = {
        name: listed
        for name in _folders(names)
        if (listed := await _listed(client, f"models/{quote(name, safe='')}")) is not None
    }
    inputs = {}
    if (listed := await _listed(client, _INPUTS)) is not None:
        inputs[_INPUTS] = listed
    if folder_class is not None and (info := await _info(client, folder_class)) is not None:
        inputs[folder_class] = info
    return FolderLists(models=models, inputs=inputs)


async def _names(client: ComfyUIClient) -> Iterable[Any]:
    try:
        names = await client.json("GET", "models")
    except InstanceRefusedError:
        return ()
    return names if isinstance(names, Iterable) else ()


def _folders(names: Iterable[Any]) -> list[str]:
    usable = (name for name in names if isinstance(name, str) and name.isprintable())
    return [name for name in usable if name and name not in _NO_MODELS][:MAX_FOLDERS]


async def _listed(client: ComfyUIClient, path: str) -> bytes | None:
    """The digest of a list: it may be one of 100,000 files, and is not read but compared."""
    try:
        return await digest_of(await client.body(path))
    except InstanceRefusedError:
        return None


async def _info(client: ComfyUIClient, class_name: str) -> bytes | None:
    try:
        return await digest_of(await class_info(client, class_name))
    except InstanceRefusedError:  # a slash in its name, say
        return None
