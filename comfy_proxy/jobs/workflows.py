"""Workflows: which graph an instance can run for a picture, and that graph filled in.

A workflow has variants in the order of preference; an instance runs the first one whose node
classes and model files it has. Nothing here does I/O: ``choose`` decides and returns a plan
(``graphs.py``). Templates are read by ``workflow_files.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, Literal, Protocol, cast

from comfy_proxy.errors import InvalidFieldError, NotFoundError, WorkflowUnavailableError
from comfy_proxy.jobs.graphs import FIRST_FRAME_CLASSES, PREVIEW_CLASS, SOCKET_CLASS, Plan, Prompt
from comfy_proxy.jobs.parameters import Parameter, Scalar, parse_parameters
from comfy_proxy.jobs.pictures import PictureInfo

MAX_SIDE: Final = 16384
"""Pixels of the largest width or height of ComfyUI's nodes (its MAX_RESOLUTION). A request whose
result would be larger is refused with 400."""
_MAX_WEBP_SIDE: Final = 16383  # pixels, of the file format; beyond, 400 before the job is made
_SOCKET_PIXELS: Final = 4_000_000
"""Pixels from which on a result comes as a file, not as a frame: ComfyUI encodes a frame's PNG on
its event loop (PROTOCOL.md trap 10)."""

Missing = dict[str, list[str]]
"""Variant name → the node classes and model files that an instance lacks for it. Empty if the
instance can run one of the variants."""


class NodeCapabilities(Protocol):
    """What one instance can do, from its ``/object_info``."""

    def has_class(self, name: str) -> bool:
        """True if the node class exists there."""

    def choices(self, class_name: str, input_name: str) -> tuple[str, ...] | None:
        """The values that an enum input takes; None if there is no such enum input."""


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """How the result is converted: the arguments of ``pictures.convert_picture``."""

    format: Literal["PNG", "JPEG", "WEBP"]
    quality: int | None
    crop: bool


@dataclass(frozen=True, kw_only=True)
class Choose:
    """A binding that takes the first value an instance offers, by patterns in order."""

    patterns: tuple[str, ...]

    def pick(self, choices: tuple[str, ...]) -> str | None:
        """The first choice that matches the earliest pattern (``*``, ``?``, any case), or None."""
        for pattern in self.patterns:
            for choice in choices:
                if fnmatchcase(choice.lower(), pattern.lower()):
                    return choice
        return None


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One graph that does the work. ``bind``: (node id, input) → ``"$variable"`` or Choose.

    ``output`` is a link (node id, slot) that yields an IMAGE, or the id of an output node of the
    graph. ``when``: the variant is for such pictures only (``alpha``, ``enlarges``).
    """

    name: str
    graph: Prompt
    bind: Mapping[tuple[str, str], str | Choose]
    output: tuple[str, int] | str
    when: Mapping[str, bool] = field(default_factory=dict)

    @property
    def classes(self) -> frozenset[str]:
        """Node classes of the graph."""
        return frozenset(str(node["class_type"]) for node in self.graph.values())


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """A named piece of work: parameters in, one picture out.

    ``scale`` is the size of the result relative to the picture: a number, ``"$parameter"``, or
    None if it cannot be known beforehand. ``crop`` likewise is a truth or ``"$parameter"``.
    """

    name: str
    title: str
    description: str
    parameters: Mapping[str, Parameter]
    variants: tuple[Variant, ...]
    scale: float | str | None = None
    crop: bool | str = False

    def parse_parameters(self, raw: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """``raw`` as typed values, defaults filled in; raises InvalidFieldError."""
        return parse_parameters(self.parameters, raw)

    def required_classes(self) -> frozenset[str]:
        """Every node class that any variant could use for any picture."""
        own = frozenset[str]().union(*(variant.classes for variant in self.variants))
        return own | {SOCKET_CLASS, PREVIEW_CLASS, *FIRST_FRAME_CLASSES}

    def target_size(self, info: PictureInfo, parameters: Mapping[str, Scalar]) -> tuple[int, int]:
        """Width and height of the result in pixels before it is cropped.

        The picture's own if the workflow does not say how it scales. Raises InvalidFieldError for
        ``scale`` if ComfyUI cannot make a picture of that size, for ``format`` if WEBP cannot hold
        it: before the job is made, not after it has run.
        """
        factor = self._factor(parameters)
        if factor is None:
            return info.width, info.height
        width, height = (math.floor(side * factor + 0.5) for side in (info.width, info.height))
        blamed = self.scale[1:] if isinstance(self.scale, str) else "image"
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
        """How to convert the picture that ComfyUI returns, by ``format``, ``quality`` and crop."""
        crop = parameters[self.crop[1:]] if isinstance(self.crop, str) else self.crop
        quality = parameters.get("quality")
        return ConvertOptions(
            format=cast(Literal["PNG", "JPEG", "WEBP"], parameters["format"]),
            quality=None if quality is None else int(quality),
            crop=bool(crop),
        )

    def choose(
        self,
        capabilities: NodeCapabilities,
        info: PictureInfo,
        parameters: Mapping[str, Scalar],
    ) -> Plan:
        """The first variant that the instance can run for this picture.

        Raises WorkflowUnavailableError with ``details.missing`` (see :data:`Missing`).
        """
        missing: Missing = {}
        for variant in self._candidates(info, parameters):
            lacking = _lacking(variant, capabilities, animated=info.frames > 1)
            if not lacking:
                return self._plan(variant, capabilities, info, parameters)
            missing[variant.name] = lacking
        raise unavailable(self.name, missing)

    def missing(
        self,
        capabilities: NodeCapabilities,
        info: PictureInfo | None = None,
        parameters: Mapping[str, Scalar] | None = None,
    ) -> Missing:
        """What the instance lacks; empty if it can run the workflow.

        With ``info`` and ``parameters`` for that request, else for any picture.
        """
        missing: Missing = {}
        variants = self.variants
        if info is not None and parameters is not None:
            variants = self._candidates(info, parameters)
        for variant in variants:
            lacking = _lacking(variant, capabilities, animated=bool(info and info.frames > 1))
            if not lacking:
                return {}
            missing[variant.name] = lacking
        return missing

    def _factor(self, parameters: Mapping[str, Scalar]) -> float | None:
        if isinstance(self.scale, str):
            return float(parameters[self.scale[1:]])
        return self.scale

    def _candidates(
        self, info: PictureInfo, parameters: Mapping[str, Scalar]
    ) -> tuple[Variant, ...]:
        facts = {"alpha": info.has_alpha, "enlarges": (self._factor(parameters) or 1) > 1}
        return tuple(
            variant
            for variant in self.variants
            if all(facts[name] == wanted for name, wanted in variant.when.items())
        )

    def _plan(
        self,
        variant: Variant,
        capabilities: NodeCapabilities,
        info: PictureInfo,
        parameters: Mapping[str, Scalar],
    ) -> Plan:
        width, height = self.target_size(info, parameters)
        known: dict[str, Scalar] = {
            **parameters,
            "width": info.width,
            "height": info.height,
            "target_width": width,
            "target_height": height,
        }
        values: dict[tuple[str, str], Scalar] = {}
        for (node, name), source in variant.bind.items():
            if isinstance(source, Choose):
                offered = capabilities.choices(variant.graph[node]["class_type"], name)
                value: Scalar | None = source.pick(offered or ())
            else:
                value = known.get(source[1:])
            if value is not None:
                values[node, name] = value
        small = self.scale is not None and width * height < _SOCKET_PIXELS
        by_socket = small and capabilities.has_class(SOCKET_CLASS)
        return Plan(
            variant=variant.name,
            graph=variant.graph,
            values=values,
            picture_inputs=tuple(to for to, source in variant.bind.items() if source == "$picture"),
            output=variant.output,
            by_frame=by_socket and not isinstance(variant.output, str),
            first_frame_only=info.frames > 1,
        )


class WorkflowRegistry:
    """All workflows by name."""

    def __init__(self, workflows: Mapping[str, Workflow]) -> None:
        self._workflows = dict(workflows)

    def get(self, name: str) -> Workflow:
        """The workflow of that name; raises NotFoundError ``unknown_workflow``."""
        try:
            return self._workflows[name]
        except KeyError:
            message = f"There is no workflow of that name; there are {', '.join(self.names())}."
            raise NotFoundError(message, code="unknown_workflow") from None

    def names(self) -> tuple[str, ...]:
        """All names, the shipped ones first."""
        return tuple(self._workflows)

    def required_classes(self) -> frozenset[str]:
        """Every node class that any workflow could use."""
        return frozenset[str]().union(*(w.required_classes() for w in self._workflows.values()))

    def missing(
        self,
        name: str,
        instances: Mapping[str, NodeCapabilities | None],
        info: PictureInfo | None = None,
        parameters: Mapping[str, Scalar] | None = None,
    ) -> dict[str, Missing]:
        """Host → what it lacks; empty if one can run the workflow or one is not known (None)."""
        workflow = self.get(name)
        missing: dict[str, Missing] = {}
        for host, capabilities in instances.items():
            lacking = workflow.missing(capabilities, info, parameters) if capabilities else {}
            if not lacking:
                return {}
            missing[host] = lacking
        return missing


def unavailable(workflow: str, missing: Missing) -> WorkflowUnavailableError:
    """The error for an instance that lacks something for every variant."""
    parts = "; ".join(f"{variant}: {', '.join(lacks)}" for variant, lacks in missing.items())
    message = f"The workflow {workflow!r} cannot run there; missing are, by variant, {parts}."
    return WorkflowUnavailableError(message, details={"missing": missing})


def _lacking(variant: Variant, capabilities: NodeCapabilities, *, animated: bool) -> list[str]:
    needed = set(variant.classes)
    if not isinstance(variant.output, str):
        needed.add(PREVIEW_CLASS)
    if animated:
        needed.update(FIRST_FRAME_CLASSES)
    lacking = sorted(name for name in needed if not capabilities.has_class(name))
    for (node, name), source in variant.bind.items():
        class_name = variant.graph[node]["class_type"]
        if not isinstance(source, Choose) or class_name in lacking:
            continue
        offered = capabilities.choices(class_name, name)
        # None: the input is no enum on that instance, and the graph's own value has to do.
        if offered is not None and source.pick(offered) is None:
            lacking.append(f"a model file for {class_name}.{name}")
    return lacking
