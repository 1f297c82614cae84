"""Workflows: which graph an instance can run for a request, and that graph filled in.

A workflow has variants in the order of preference; an instance runs the first one whose node
classes and model files it has. Nothing here does I/O: ``choose`` decides and returns a plan
(``plan.py``). Template files become workflows in ``template.py`` and ``exported_graph.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast

from comfy_proxy.errors import InvalidFieldError, WorkflowUnavailableError
from comfy_proxy.jobs.media.file_info import FileInfos, PictureInfo, pictures_of
from comfy_proxy.jobs.workflows.parameter import Parameter, Scalar, parse_parameters
from comfy_proxy.jobs.workflows.plan import (
    FIRST_FRAME_CLASSES,
    PREVIEW_CLASS,
    SOCKET_CLASS,
    Plan,
)
from comfy_proxy.jobs.workflows.variant import NodeCapabilities, Variant

MAX_SIDE: Final = 16384
"""Pixels of the largest width or height of ComfyUI's nodes (its MAX_RESOLUTION). A request whose
result would be larger is refused with 400."""
FILE_ALIASES: Final = ("imageFile", "image", "file")
"""Other names for the file of a workflow that takes exactly one."""
_MAX_WEBP_SIDE: Final = 16383  # pixels, of the file format; beyond, 400 before the job is made
_SOCKET_PIXELS: Final = 4_000_000
"""Pixels from which on a result comes as a file, not as a frame: ComfyUI encodes a frame's PNG on
its event loop (PROTOCOL.md trap 10)."""

Missing = dict[str, list[str]]
"""Variant name → the node classes and model files that an instance lacks for it. Empty if the
instance can run one of the variants."""


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """How resulting still pictures are converted: ``pictures.convert_picture``'s arguments.

    ``format`` None: they stay as ComfyUI made them, unless they are to be cropped.
    """

    format: Literal["PNG", "JPEG", "WEBP"] | None
    quality: int | None
    crop: bool

    @property
    def nothing_to_do(self) -> bool:
        """The pictures stay as they are, byte for byte."""
        return self.format is None and not self.crop


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """A named piece of work: parameters and files in, results out.

    ``source`` is the name of its file without ``.json``. ``subject`` is the file parameter whose
    picture the sizes of the result and the conditions of variants are about, None if there is none.
    ``scale`` is the size of the result relative to it: a number, ``"$parameter"``, or None if it
    cannot be known beforehand. ``crop`` likewise is a truth or ``"$parameter"``.
    """

    name: str
    title: str
    description: str
    parameters: Mapping[str, Parameter]
    variants: tuple[Variant, ...]
    subject: str | None = None
    scale: float | str | None = None
    crop: bool | str = False
    source: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the file parameters, in the order in which they are shown."""
        return tuple(name for name, parameter in self.parameters.items() if parameter.is_file)

    def file_of(self, field: str) -> str | None:
        """The file parameter that a client means by ``field``; None if it means none."""
        files = self.files
        if field in files:
            return field
        return files[0] if field in FILE_ALIASES and len(files) == 1 else None

    def parse_parameters(self, raw: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """``raw`` as typed values, defaults filled in; raises InvalidFieldError."""
        return parse_parameters(self.parameters, raw)

    def required_classes(self) -> frozenset[str]:
        """Every node class that any variant could use for any picture."""
        own = frozenset[str]().union(*(variant.classes for variant in self.variants))
        return own | {SOCKET_CLASS, PREVIEW_CLASS, *FIRST_FRAME_CLASSES}

    def target_size(
        self, infos: FileInfos, parameters: Mapping[str, Scalar]
    ) -> tuple[int, int] | None:
        """Width and height of the result in pixels before it is cropped.

        The subject's own if the workflow does not say how it scales, None if it has no subject.
        Raises InvalidFieldError for ``scale`` if ComfyUI cannot make a picture of that size, for
        ``format`` if WEBP cannot hold it: before the job is made, not after it has run.
        """
        info = self._subject_of(infos)
        factor = self._factor(parameters)
        if info is None or factor is None:
            return None if info is None else (info.width, info.height)
        width, height = (_scaled(side, factor) for side in (info.width, info.height))
        blamed = self.scale[1:] if isinstance(self.scale, str) else str(self.subject)
        if min(width, height) < 1:
            raise InvalidFieldError(blamed, f"The result would be {width}×{height} pixels.")
        scaled = factor != 1 or isinstance(self.scale, str)  # then a node of ComfyUI sets the size
        if scaled and max(width, height) > MAX_SIDE:
            message = f"The result would be {width}×{height}; a side has at most {MAX_SIDE} pixels."
            raise InvalidFieldError(blamed, message)
        if parameters.get("format") == "WEBP" and max(width, height) > _MAX_WEBP_SIDE:
            message = f"WEBP holds at most {_MAX_WEBP_SIDE} pixels a side, not {width}×{height}."
            raise InvalidFieldError("format", message)
        return width, height

    def convert_options(self, parameters: Mapping[str, Scalar]) -> ConvertOptions:
        """How to convert the pictures that ComfyUI returns, by ``format``, ``quality`` and crop."""
        crop = parameters[self.crop[1:]] if isinstance(self.crop, str) else self.crop
        quality = parameters.get("quality")
        return ConvertOptions(
            format=cast(Literal["PNG", "JPEG", "WEBP"] | None, parameters.get("format")),
            quality=None if quality is None else int(quality),
            crop=bool(crop),
        )

    def choose(
        self, capabilities: NodeCapabilities, infos: FileInfos, parameters: Mapping[str, Scalar]
    ) -> Plan:
        """The first variant that the instance can run for this request.

        Raises WorkflowUnavailableError with ``details.missing`` (see :data:`Missing`).
        """
        missing: Missing = {}
        for variant in self._candidates(infos, parameters):
            lacking = variant.lacking(capabilities, self._animated(variant, infos), parameters)
            if not lacking:
                return self._plan(variant, capabilities, infos, parameters)
            missing[variant.name] = lacking
        raise unavailable(self.name, missing)

    def missing(
        self,
        capabilities: NodeCapabilities,
        infos: FileInfos | None = None,
        parameters: Mapping[str, Scalar] | None = None,
    ) -> Missing:
        """What the instance lacks; empty if it can run the workflow.

        With ``infos`` and ``parameters`` for that request, else for any picture.
        """
        missing = self.missing_by_variant(capabilities, infos, parameters)
        return {} if not all(missing.values()) else missing

    def missing_by_variant(
        self,
        capabilities: NodeCapabilities,
        infos: FileInfos | None = None,
        parameters: Mapping[str, Scalar] | None = None,
    ) -> Missing:
        """As :meth:`missing`, of each variant: an empty list for one that can run."""
        variants, known = self.variants, parameters or {}
        if infos is not None and parameters is not None:
            variants = tuple(self._candidates(infos, parameters))
        return {
            variant.name: variant.lacking(capabilities, self._animated(variant, infos or {}), known)
            for variant in variants
        }

    def _subject_of(self, infos: FileInfos) -> PictureInfo | None:
        info = infos.get(self.subject) if self.subject is not None else None
        return info if isinstance(info, PictureInfo) else None

    def _factor(self, parameters: Mapping[str, Scalar]) -> float | None:
        if isinstance(self.scale, str):
            return float(parameters[self.scale[1:]])
        return self.scale

    def _candidates(self, infos: FileInfos, parameters: Mapping[str, Scalar]) -> Iterator[Variant]:
        info = self._subject_of(infos)
        facts = {
            "alpha": info is not None and info.has_alpha,
            "enlarges": (self._factor(parameters) or 1) > 1,
        }
        for variant in self.variants:
            if all(facts[name] == wanted for name, wanted in variant.when.items()):
                yield variant

    def _animated(self, variant: Variant, infos: FileInfos) -> frozenset[str]:
        """The pictures of which ComfyUI's loader would make a batch: LoadImage alone does."""
        animated = {name for name, info in pictures_of(infos).items() if info.frames > 1}
        return frozenset(
            name
            for name in animated
            if "LoadImage" in {variant.class_of(node) for node, _ in variant.inputs_of(name)}
        )

    def _plan(
        self,
        variant: Variant,
        capabilities: NodeCapabilities,
        infos: FileInfos,
        parameters: Mapping[str, Scalar],
    ) -> Plan:
        known = {**self._sizes(infos, parameters), **parameters}
        size = self.target_size(infos, parameters)
        small = self.scale is not None and size is not None and math.prod(size) < _SOCKET_PIXELS
        by_frame = small and capabilities.has_class(SOCKET_CLASS)
        return Plan(
            variant=variant.name,
            graph=variant.graph,
            values=variant.values(capabilities, known),
            files={name: variant.inputs_of(name) for name in infos},
            outputs=variant.outputs,
            by_frame=by_frame and isinstance(variant.outputs, tuple),
            animated=self._animated(variant, infos),
        )

    def _sizes(self, infos: FileInfos, parameters: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """What templates may bind of the pictures: ``$width``, ``$name.width``, ``$target_width``
        and so on. ``$width`` and ``$height`` are the subject's."""
        sizes: dict[str, Scalar] = {}
        for name, info in pictures_of(infos).items():
            sizes |= {f"{name}.width": info.width, f"{name}.height": info.height}
        subject, target = self._subject_of(infos), self.target_size(infos, parameters)
        if subject is not None and target is not None:
            sizes |= {"width": subject.width, "height": subject.height}
            sizes |= {"target_width": target[0], "target_height": target[1]}
        return sizes


def _scaled(side: int, factor: float) -> int:
    """Half a pixel is rounded up; what is far too large is some number that is too large."""
    return math.floor(max(0, min(side * factor, 2**31)) + 0.5)


def unavailable(workflow: str, missing: Missing) -> WorkflowUnavailableError:
    """The error for an instance that lacks something for every variant."""
    parts = "; ".join(f"{variant}: {', '.join(lacks)}" for variant, lacks in missing.items())
    message = f"The workflow {workflow!r} cannot run there; missing are, by variant, {parts}."
    return WorkflowUnavailableError(message, details={"missing": missing})
