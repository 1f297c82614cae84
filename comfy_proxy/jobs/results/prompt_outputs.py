"""What the nodes of a prompt have told of their results: files, texts and other data. Pure.

A node's output is a JSON object (``executed`` frames and ``/history``): lists of files as
``{"filename", "subfolder", "type"}`` under keys like ``images``, ``gifs``, ``audio`` or ``3d``,
texts under ``text``, and whatever else a custom node tells its own part of the frontend.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from comfy_proxy.cluster.output_file import OutputFile
from comfy_proxy.errors import ResultError

MAX_RESULTS: Final = 1_000
"""Results of one job; with more it fails, and says so. Each status tells of all of them."""
_FLAGS: Final = frozenset(("animated",))
"""Keys that say something of the files beside them, and are no results."""
_MODELS: Final = frozenset((".glb", ".gltf", ".obj", ".fbx", ".stl", ".ply", ".usdz", ".splat"))
"""Preview3D tells the path of a model as a text: ``{"result": ["3d/x.glb", camera, null]}``."""


@dataclass(frozen=True, kw_only=True)
class ToldText:
    """A text that ``node`` has shown."""

    node: str
    text: str


@dataclass(frozen=True, kw_only=True)
class ToldData:
    """Anything else that ``node`` has told, as JSON."""

    node: str
    data: Any


Told = OutputFile | ToldText | ToldData


def told_results(outputs: Mapping[str, Mapping[str, Any]], order: Sequence[str]) -> list[Told]:
    """The results in ``outputs`` (node id → its output), each file once.

    Saved files come before those that were only previewed, then nodes in ``order``. Raises
    ResultError for more than ``MAX_RESULTS``. May take a second for what is very long.
    """
    places = {node: at for at, node in enumerate(order)}
    nodes = sorted(outputs, key=lambda node: places.get(node, len(places)))
    found: list[Told] = []
    files: set[OutputFile] = set()
    for node in nodes:
        for told in _of_node(node, outputs[node]):
            if isinstance(told, OutputFile):
                if told in files:
                    continue
                files.add(told)
            found.append(told)
            if len(found) > MAX_RESULTS:
                raise ResultError(f"The workflow has more than {MAX_RESULTS} results.")
    return sorted(found, key=_is_preview)


def _is_preview(told: Told) -> bool:
    return isinstance(told, OutputFile) and told.type == "temp"


def _of_node(node: str, output: Mapping[str, Any]) -> Iterator[Told]:
    for key, values in output.items():
        items = values if isinstance(values, list | tuple) else [values]
        if key in _FLAGS:
            continue
        left: list[Any] = []
        for item in items:
            if (file := _file(item)) is not None or (file := _model(key, item)) is not None:
                yield file
            elif isinstance(item, str):
                yield ToldText(node=node, text=item)
            elif item is not None:
                left.append(item)
        if left:
            yield ToldData(node=node, data={key: left})


def _file(item: Any) -> OutputFile | None:
    if not isinstance(item, dict) or not isinstance(item.get("filename"), str):
        return None
    return OutputFile(
        filename=item["filename"],
        subfolder=str(item.get("subfolder") or ""),
        type=str(item.get("type") or "output"),
    )


def _model(key: str, item: Any) -> OutputFile | None:
    if key != "result" or not isinstance(item, str):
        return None
    path = PurePosixPath(item.replace("\\", "/"))
    if path.suffix.lower() not in _MODELS:
        return None
    folder = "" if str(path.parent) == "." else str(path.parent)
    return OutputFile(filename=path.name, subfolder=folder, type="output")
