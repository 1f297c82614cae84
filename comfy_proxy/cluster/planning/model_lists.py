"""The JSON in which ComfyUI lists the model files of its folders, asked for and read.

``/experiment/models`` is ``[{"name": folder, "folders": [directory…]}…]``, and
``/experiment/models/{folder}`` is ``[{"name": …, "pathIndex": 0, "size": bytes, …}…]``: everything
below the folder's directories, of LISTED_EXTENSIONS alone whatever else the folder may hold. Older
servers have no ``size``, the oldest no such route.

ComfyUI walks through the directories within its event loop, for each request anew: so the folders
are asked one after the other, that other requests come in between, and no directory twice.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from loguru import logger

from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.errors import InstanceError, InstanceRefusedError
from comfy_proxy.json_listing import Listing
from comfy_proxy.lenient_json import loads

LISTED_EXTENSIONS: Final = (
    *(".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl"),
)
MAX_FOLDERS: Final = 200
MAX_FILES: Final = 50_000
"""What an instance lists beyond these is not known."""
_ROUTE = "experiment/models"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One model file: the name of its folder (``loras``), and its size in bytes."""

    folder: str
    size: int


async def model_files(client: ComfyUIClient) -> dict[str, ModelFile]:
    """The model files of an instance by name, with ``/`` before each part; never fails.

    Of several files of one name the first one that it lists. It is not asked further once it does
    not answer: what came until then is the result, ``{}`` if it has no such route.
    """
    found: dict[str, ModelFile] = {}
    try:
        for folder in _folders(await client.json("GET", _ROUTE)):
            try:
                await _note(await client.body(f"{_ROUTE}/{quote(folder, safe='')}"), folder, found)
            except InstanceRefusedError as error:  # this folder alone
                logger.debug("the models in {} are not known: {}", folder, error.message)
    except InstanceError as error:
        logger.debug("{} does not list its models: {}", client.instance.host, error.message)
    return found


def uniform(name: str) -> str:
    """``name`` as it is compared: with ``/``, which is ``\\`` at an instance on Windows."""
    return name.strip().replace("\\", "/")


def _folders(answer: Any) -> list[str]:
    """The folders to ask for: those that have a directory which none before them has."""
    names: list[str] = []
    seen: set[str] = set()
    for entry in answer if isinstance(answer, list) else ():
        name, directories = _member(entry, "name"), _member(entry, "folders")
        if not isinstance(name, str) or not _encodable(name) or len(names) >= MAX_FOLDERS:
            continue
        there = {str(one) for one in directories} if isinstance(directories, list) else {name}
        if not there <= seen:
            names.append(name)
            seen |= there
    return names


async def _note(body: bytes, folder: str, found: dict[str, ModelFile]) -> None:
    """Add what ``body`` lists to ``found``, in steps: it may have megabytes. What is no list has
    nothing."""
    with suppress(ValueError):
        for spans in Listing(body).steps():
            for start, end in spans:
                entry = loads(body[start:end])
                name, size = _member(entry, "name"), _member(entry, "size")
                if isinstance(name, str) and isinstance(size, int) and size >= 0:
                    if len(found) >= MAX_FILES:
                        return
                    found.setdefault(uniform(name), ModelFile(folder, size))
            await asyncio.sleep(0)


def _member(entry: Any, key: str) -> Any:
    return entry.get(key) if isinstance(entry, dict) else None


def _encodable(name: str) -> bool:
    """False for a lone surrogate, which no path can hold, and for what is no part of a path."""
    return name.isprintable() and name not in ("", ".", "..")
