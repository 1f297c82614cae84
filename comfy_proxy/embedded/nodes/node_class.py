"""What a node class is: its `/object_info` entry and the function that runs it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from comfy_proxy.embedded.folders import Folders

# IMAGE is [batch, height, width, channels] and MASK [batch, height, width], both in 0..1.
Pixels = NDArray[np.float32]
Json = dict[str, Any]
MAX_RESOLUTION = 16384  # pixels of a side; validation refuses more


class Context(Protocol):
    """What a running node may ask for."""

    folders: Folders
    graph: Json
    extra_pnginfo: Json | None

    @property
    def temp_prefix(self) -> str: ...

    def progress(self, value: int, maximum: int, preview: Image.Image | None = None) -> None:
        """Move the progress bar; raises Interrupted if somebody interrupted the prompt."""

    def wait_until(self, deadline: float) -> None:
        """Sleep until `time.monotonic()` is `deadline`; an interrupt raises Interrupted at once."""

    def save(self, picture: Image.Image, path: Any, **options: Any) -> None:
        """Write a PNG; raises OSError if the disk is full, or the fault `disk_full` says so."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run returns: a value for each output; `ui` is what `executed` shows, if anything."""

    outputs: tuple[Any, ...] = ()
    ui: Mapping[str, list[Any]] | None = None


Run = Callable[[Context, Json], Result]


@dataclass(frozen=True, kw_only=True)
class NodeClass:
    """One class of the table.

    `live_enums` maps an input to the function that lists its choices now. `fingerprint` is
    ComfyUI's IS_CHANGED: its value is part of the cache's key. `validate` is VALIDATE_INPUTS by
    input name: the function returns None for a valid value, else a message.
    """

    name: str
    entry: Json
    run: Run
    live_enums: Mapping[str, Callable[[Folders], list[str]]] = field(default_factory=dict)
    fingerprint: Callable[[Folders, Json], object] | None = None
    validate: Mapping[str, Callable[[Folders, Any], str | None]] = field(default_factory=dict)

    @property
    def outputs(self) -> list[str]:
        """The types of its outputs, in slot order."""
        types: list[str] = self.entry["output"]
        return types

    @property
    def is_output(self) -> bool:
        return bool(self.entry["output_node"])

    def inputs(self, folders: Folders, category: str) -> dict[str, list[Any]]:
        """The declared inputs of `required` or `optional`, live enums filled in."""
        declared: dict[str, list[Any]] = self.entry["input"].get(category, {})
        live = self.live_enums.keys() & declared.keys()
        return declared | {name: _filled(declared[name], self, name, folders) for name in live}

    def object_info(self, folders: Folders) -> Json:
        """The entry as `GET /object_info/{class}` gives it at this moment."""
        if not self.live_enums:
            return self.entry
        required = self.inputs(folders, "required")
        return self.entry | {"input": self.entry["input"] | {"required": required}}


def _filled(declared: list[Any], node: NodeClass, name: str, folders: Folders) -> list[Any]:
    return [node.live_enums[name](folders), *declared[1:]]


def entry(
    name: str,
    display_name: str,
    *,
    category: str,
    inputs: Mapping[str, list[Any]],
    outputs: tuple[str, ...] = (),
    module: str = "nodes",
    **more: Any,
) -> Json:
    """An `/object_info` entry in the key order of the recordings; `more` overrides or extends."""
    return {
        "input": {"required": dict(inputs)},
        "input_order": {"required": list(inputs)},
        "output": list(outputs),
        "output_is_list": [False] * len(outputs),
        "output_name": list(outputs),
        "name": name,
        "display_name": display_name,
        "description": "",
        "python_module": module,
        "category": category,
        "output_node": False,
    } | more


def v3_entry(name: str, display_name: str, *, outputs: tuple[str, ...], **more: Any) -> Json:
    """The entry of a class written against ComfyUI's newer node interface: four more keys."""
    extra: Json = {
        "output_tooltips": [None] * len(outputs),
        "deprecated": False,
        "experimental": False,
        "api_node": False,
    }
    return entry(name, display_name, outputs=outputs, **more, **extra)


def number(default: int, minimum: int, maximum: int, **more: Any) -> list[Any]:
    """The declaration of an INT input."""
    return ["INT", {"default": default, "min": minimum, "max": maximum, **more}]


def size(default: int = 0, minimum: int = 0) -> list[Any]:
    """The declaration of an INT input that counts pixels."""
    return number(default, minimum, MAX_RESOLUTION, step=1)
