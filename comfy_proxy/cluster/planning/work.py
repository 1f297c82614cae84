"""What a graph needs, as a value: models to be loaded, what drives its time, what it reads. Pure.

A graph is ComfyUI's API format: node id → ``{"class_type": …, "inputs": {…}}``. It comes from
clients and may be any JSON: what makes no sense is passed over, and nothing here raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from math import log, prod
from typing import Any, Final

from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.cluster.object_info.inputs import FILE_INPUTS
from comfy_proxy.cluster.object_info.node_class import NodeClass

MODEL_EXTENSIONS: Final = frozenset(
    (
        *(".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin"),
        *(".onnx", ".gguf", ".pkl", ".engine"),
    )
)
DRIVERS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("steps", "batch_size", "megapixels", "seconds", "duration"), 1),
    **dict.fromkeys(("length", "frames", "num_frames", "video_frames", "frame_count"), 1),
    **dict.fromkeys(("width", "height"), 1),
    **dict.fromkeys(("scale_by", "upscale_by", "resolution", "size"), 2),
}
"""Number inputs that the time grows with → the power of it: the last ones are sides of an area.

These names mean the same in most classes. Not among them are seeds and ``cfg``, which change the
picture and not the time, ``tile_size``, which cuts the same pixels differently, and
``max_new_tokens``, which is a limit and no length."""
BUCKET: Final = 1.05
"""Values that are nearer than this factor are one in a fingerprint, more or less. A client that
draws sizes at random would otherwise never run the same work twice."""
MAX_READS: Final = 64
MAX_WRITES: Final = 16
MAX_NAME_CHARS: Final = 512
"""A longer text is no file name."""

_TINY, _HUGE = 1e-6, 1e9
"""Drivers are taken as between these, so that no product of theirs is 0 or infinite."""
_MODEL_INPUT = re.compile(
    r"(?:\w+_)?(?:model|checkpoint|ckpt|lora)(?:_(?:name|path|file))?_?\d*"
    r"|(?:\w+_)?(?:unet|vae|clip|clip_vision|control_?net|gligen|hypernetwork)_name_?\d*"
    r"|bg_removal_name|upscale_model\w*",
    re.IGNORECASE,
)
"""Names of inputs that choose a model, whatever its file is called: ``RMBG-2.0``, ``taesd``."""
_NO_MODEL = frozenset(
    (
        *("", "none", "null", "default", "auto", "automatic", "disabled", "off"),
        *("baked vae", "pixel_space"),
    )
)
_RESULT_EXTENSIONS = frozenset(
    (
        *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif", ".bmp", ".exr", ".tif", ".tiff"),
        *(".mp4", ".webm", ".mkv", ".mov", ".avi", ".wav", ".flac", ".mp3", ".opus", ".ogg"),
        *(".svg", ".m4a", ".latent", ".glb", ".gltf", ".obj", ".txt", ".json"),
    )
)
_LOG_BUCKET = log(BUCKET)
_SIZES = frozenset(("width", "height", "batch_size", "megapixels", "size", "resolution"))
"""Drivers of nodes that only make room, as empty latents, and are mostly cached."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Work:
    """What a graph needs. Nothing of it depends on seeds, texts or the order of nodes."""

    kind: str
    """Of its node classes and models: works of the same kind differ in their size alone."""
    fingerprint: str
    """``kind``, and the drivers of its time to about 5 %: what is learnt is kept under this."""
    models: tuple[str, ...]
    """The model files as it names them, sorted, each once."""
    loaders: frozenset[str]
    """The ids of the nodes that name them."""
    effort: float
    """The product of its drivers, more than 0; 1.0 without any. The ratio of two efforts scales a
    time from one fingerprint to another of its kind."""
    reads: frozenset[str]
    """File names in its inputs that may be results of earlier prompts, without ``[output]``."""
    writes: frozenset[str]
    """The values of ``filename_prefix`` of its nodes."""
    heavy: frozenset[str] = frozenset()
    """The ids of the nodes with drivers other than a size: one whose result comes from ComfyUI's
    cache took no time, and tells nothing of how long such work takes."""


def work_of(
    graph: Mapping[str, Any], catalog: NodeCatalog | None, *, pixels: int | None = None
) -> Work:
    """What ``graph`` needs; ``pixels`` are those of a job's input picture, one driver more.

    ``catalog``: the classes of any instance that has them. Of a class that it lacks, or without a
    catalog, a model is what ends like a model file. Names beyond the limits above are left out.
    """
    found = _Found(graph, catalog)
    for node_id, node in graph.items():
        found.add(node_id, node)
    if pixels is not None:
        found.add_drivers("", {"pixels": pixels})
    models = sorted(found.models)
    kind = _digest((*sorted(found.classes), "", *models))
    return Work(
        kind=kind,
        fingerprint=f"{kind}-{_digest(sorted(found.buckets))}",
        models=tuple(models),
        loaders=frozenset(found.loaders),
        heavy=frozenset(found.heavy),
        effort=prod(found.largest.values(), start=1.0),
        reads=frozenset(found.reads),
        writes=frozenset(found.writes),
    )


def names_result_of(later: Work, earlier: Work) -> bool:
    """True if a file that ``later`` reads is called as one that ``earlier`` writes may be.

    A guess: the folder may be another one (clients see results in folders of ours), and everybody's
    default prefix is ``ComfyUI``. A prefix counts up to its first placeholder (``%date%``), which
    ComfyUI fills in; one that begins with it matches nothing.
    """
    if not later.reads:
        return False
    starts = [_slashes(prefix).partition("%")[0] for prefix in earlier.writes]
    return any(_begins(_slashes(name), start) for name in later.reads for start in starts if start)


def _begins(name: str, start: str) -> bool:
    last = start.rpartition("/")[2]
    return name.startswith(start) or (last != "" and name.rpartition("/")[2].startswith(last))


@dataclass(slots=True)
class _Found:
    """What one pass over the nodes collects."""

    graph: Mapping[str, Any]
    catalog: NodeCatalog | None
    classes: list[str] = field(default_factory=list)
    models: set[str] = field(default_factory=set)
    loaders: set[str] = field(default_factory=set)
    heavy: set[str] = field(default_factory=set)
    buckets: list[str] = field(default_factory=list)
    largest: dict[str, float] = field(default_factory=dict)
    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)

    def add(self, node_id: str, node: Any) -> None:
        """Collect from one node."""
        if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
            return
        class_name, inputs = node["class_type"], node.get("inputs")
        node_class = None if self.catalog is None else self.catalog.get(class_name)
        self.classes.append(class_name)
        drivers: dict[str, Any] = {}
        for name, value in inputs.items() if isinstance(inputs, dict) else ():
            if isinstance(value, str):
                if 0 < len(value) <= MAX_NAME_CHARS:
                    self._add_text(node_id, class_name, node_class, name, value.strip())
            elif name in DRIVERS:
                drivers[name] = self._linked(value)
            elif isinstance(value, dict) and value.get("on") is not False:
                self._add_models(node_id, value.values())
        if drivers:
            self.add_drivers(class_name, drivers)
        if drivers.keys() - _SIZES:
            self.heavy.add(node_id)

    def add_drivers(self, class_name: str, values: Mapping[str, Any]) -> None:
        """The drivers of one node. One that is no number, or not above 0, is as it comes."""
        drivers = {name: value for name, one in values.items() if (value := _number(one))}
        for name, value in drivers.items():
            self.buckets.append(f"{class_name} {name} {round(log(value) / _LOG_BUCKET)}")
        for name, size in _factors(drivers):
            self.largest[name] = max(self.largest.get(name, 0.0), size)

    def _linked(self, value: Any) -> Any:
        """``value``, or what the node holds that it is linked to, if that is a mere value."""
        if not isinstance(value, list) or not value or not isinstance(value[0], str):
            return value
        source = self.graph.get(value[0])
        inputs = source.get("inputs") if isinstance(source, dict) else None
        return inputs.get("value") if isinstance(inputs, dict) else None

    def _add_text(
        self, node_id: str, class_name: str, node_class: NodeClass | None, name: str, value: str
    ) -> None:
        if name == "filename_prefix":
            if len(self.writes) < MAX_WRITES:
                self.writes.add(value)
            return
        ending = _ending(value)
        if _is_model(node_class, name, value, ending):
            self.models.add(value)
            self.loaders.add(node_id)
            return
        read = _result_name(class_name, value, ending)
        if read is None or len(self.reads) >= MAX_READS:
            return
        if read != value or not _is_upload(class_name, node_class, name):
            self.reads.add(read)

    def _add_models(self, node_id: str, values: Iterable[Any]) -> None:
        """Of an input that is an object, as lists of LoRAs have it: no class tells of these."""
        for value in values:
            if not isinstance(value, str) or len(value) > MAX_NAME_CHARS:
                continue
            if _ending(name := value.strip()) in MODEL_EXTENSIONS:
                self.models.add(name)
                self.loaders.add(node_id)


def _is_model(node_class: NodeClass | None, name: str, value: str, ending: str) -> bool:
    by_file = ending in MODEL_EXTENSIONS
    if not by_file and (
        _MODEL_INPUT.fullmatch(name) is None or value.strip("[]() ").lower() in _NO_MODEL
    ):
        return False
    chosen = None if node_class is None else node_class.chooses(name)
    return by_file if chosen is None else chosen


def _is_upload(class_name: str, node_class: NodeClass | None, name: str) -> bool:
    """Its values are files of the input directory, where no prompt leaves results."""
    if class_name == "LoadImageOutput":
        return False
    if node_class is None:
        return name in FILE_INPUTS.get(class_name, ())
    return name in node_class.file_inputs()


def _ending(value: str) -> str:
    """What follows its last dot, with the dot; some text that is no ending if there is none."""
    return value[value.rfind(".") :].lower()


def _result_name(class_name: str, value: str, ending: str) -> str | None:
    """The name of a file that an earlier prompt may have made; None if ``value`` is none."""
    if value.endswith("]"):
        name, _, place = value.rpartition(" [")
        if name and place in ("output]", "temp]"):
            return name
        if name and place == "input]":
            return None
    if class_name == "LoadImageOutput":
        return value
    return value if ending in _RESULT_EXTENSIONS and "\n" not in value else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return None
    return float(min(max(value, _TINY), _HUGE))


def _factors(drivers: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """What the time grows with linearly: two sides are one area; a side alone is a square's."""
    sides = [drivers[side] for side in ("width", "height") if side in drivers]
    if sides:
        yield "area", sides[0] * sides[-1]
    for name, value in drivers.items():
        if name not in ("width", "height"):
            yield name, value ** DRIVERS.get(name, 1)


def _slashes(name: str) -> str:
    return name.replace("\\", "/")


def _digest(parts: Iterable[str]) -> str:
    text = "\n".join(parts).encode("utf-8", "surrogatepass")
    return blake2b(text, digest_size=8).hexdigest()
