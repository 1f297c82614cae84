"""Described templates: JSON files that say what a workflow takes and which graphs can do it.

README, "Workflows", describes each key. The classes here are the format; a file that does not fit
raises pydantic's ValidationError, which names the key (``problem.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from comfy_proxy.jobs.media.file_info import FileKind
from comfy_proxy.jobs.workflows.graph_format import GraphInFile
from comfy_proxy.jobs.workflows.parameter import Parameter, common_parameters
from comfy_proxy.jobs.workflows.plan import Input, Link
from comfy_proxy.jobs.workflows.variant import Choose, Variant
from comfy_proxy.jobs.workflows.workflow import FILE_ALIASES, Workflow

RESERVED_PARAMETERS: Final = frozenset(
    (
        *("async", "mode", "token", "wait", "webhook_url"),  # transport options
        *("format", "quality", "picture"),  # ours in every workflow
        *("job_id", "status", "type", "message", "estimated_completion_time"),  # of the answer
        *("estimated_completion_seconds", "status_url", "result_url", "events_url"),
    )
)
"""Names that no parameter has: they mean something else in a request, or in its answer."""
IMAGE: Final = Parameter(name="image", type="file", kind=FileKind.IMAGE)
"""The file of a template that binds ``$picture`` and names no file itself."""
PARAMETER_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SIZES: Final = ("width", "height", "target_width", "target_height")
_OUTPUT_CLASSES: Final = ("SaveImage", "PreviewImage")
_FORMAT: Final = ConfigDict(extra="forbid", strict=True)

WORKFLOW_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""The name of a workflow, which fits into a URL path, ``/api/workflows/{name}``."""
Name = Annotated[str, Field(pattern=rf"^{WORKFLOW_NAME.pattern}$")]
Reference = Annotated[str, Field(pattern=r"^\$[a-z][a-z0-9_.]*$")]
"""``$name`` of a parameter, or of a size of a picture."""


def named(parameters: Any) -> Any:
    """Parameters as a file has them (name → description), each with its name in it."""
    if not isinstance(parameters, dict):
        return parameters
    bad = [
        name
        for name, body in parameters.items()
        if name in RESERVED_PARAMETERS
        or not PARAMETER_NAME.fullmatch(name)
        or (name in FILE_ALIASES and isinstance(body, dict) and body.get("type") != "file")
    ]
    if bad:
        names = ", ".join(map(repr, bad))
        raise ValueError(f"{names}: reserved, or no name (a letter, then a-z, 0-9 and _)")
    if renamed := [name for name, body in parameters.items() if _has_name(body)]:
        raise ValueError(f"{', '.join(renamed)}: the key is the name; there is no 'name' in it")
    return {
        name: {"name": name, **body} if isinstance(body, dict) else body
        for name, body in parameters.items()
    }


def _has_name(body: Any) -> bool:
    return isinstance(body, dict) and "name" in body


class ChooseFile(BaseModel):
    """``{"choose": ["*4x*", "*"], "value": "$model"}``: the parameter if it is given, else the
    first value of the instance that matches."""

    model_config = _FORMAT

    choose: Annotated[list[str], Field(min_length=1)]
    value: Reference | None = None


class When(BaseModel):
    """Which pictures a variant is for."""

    model_config = _FORMAT

    alpha: bool | None = None
    enlarges: bool | None = None


class Conversions(BaseModel):
    """What is done to results here."""

    model_config = _FORMAT

    crop: bool | Reference = False


class VariantFile(BaseModel):
    """One graph. ``output`` is a link that yields an IMAGE or the id of an output node, ``outputs``
    the ids of several; without both the results of all output nodes count."""

    model_config = _FORMAT

    name: str | None = None
    when: When = When()
    graph: GraphInFile
    bind: dict[str, Reference | ChooseFile] = {}
    output: Annotated[tuple[str, int], Field(strict=False)] | str | None = None
    outputs: list[str] | None = None

    @model_validator(mode="after")
    def _check(self) -> VariantFile:
        problems = list(self._problems())
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        for key in self.bind:
            node, _, name = key.partition(".")
            if node not in self.graph:
                yield f"bind: {key!r}: the graph has no node {node!r}"
            elif name not in self.graph[node]["inputs"]:
                yield f"bind: {key!r}: node {node!r} has no input {name!r}"
        if self.output is not None and self.outputs is not None:
            yield "output and outputs exclude each other"
        named_nodes = list(self.outputs or ())
        if isinstance(self.output, str):
            named_nodes = [self.output]
            if self.output in self.graph and self._class_of(self.output) not in _OUTPUT_CLASSES:
                yield f"output: node {self.output!r} is neither SaveImage nor PreviewImage"
        elif self.output is not None:
            named_nodes = [self.output[0]]
        for node in named_nodes:
            if node not in self.graph:
                yield f"output: the graph has no node {node!r}"

    def _class_of(self, node: str) -> str:
        return self.graph[node]["class_type"]

    def references(self) -> Iterator[tuple[str, str]]:
        """Each key of ``bind`` that takes a parameter, and which."""
        for key, source in self.bind.items():
            reference = source if isinstance(source, str) else source.value
            if reference is not None:
                yield key, _named_by(reference)

    def variant(self, at: int) -> Variant:
        """The variant; ``at`` is its number in the file, which is its name if it has none."""
        outputs: Link | frozenset[str]
        if isinstance(self.output, tuple):
            outputs = self.output
        else:
            outputs = frozenset([self.output] if self.output is not None else self.outputs or ())
        conditions = self.when.model_dump(exclude_none=True)
        bind = {_input(key): _source(source) for key, source in self.bind.items()}
        return Variant(
            name=self.name or str(at),
            graph={node: dict(body) for node, body in self.graph.items()},
            bind=bind,
            outputs=outputs,
            when=conditions,
        )


class TemplateFile(BaseModel):
    """A whole file. ``name`` is the file's, without ``.json``, if it has none."""

    model_config = _FORMAT

    name: Name | None = None
    title: str | None = None
    description: str = ""
    parameters: dict[str, Parameter] = {}
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Reference | None = None
    conversions: Conversions = Conversions()
    variants: Annotated[list[VariantFile], Field(min_length=1)]

    @field_validator("parameters", mode="before")
    @classmethod
    def _named(cls, parameters: Any) -> Any:
        return named(parameters)

    @model_validator(mode="after")
    def _check(self) -> TemplateFile:
        problems = list(self._problems())
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        for key, value, types in (
            ("scale", self.scale, ("number", "integer")),
            ("conversions.crop", self.conversions.crop, ("boolean",)),
        ):
            parameter = self.parameters.get(value[1:]) if isinstance(value, str) else None
            if isinstance(value, str) and (
                parameter is None or parameter.type not in types or parameter.default is None
            ):
                yield f"{key}: {value!r} is no {' or '.join(types)} parameter with a default"
        own = self._own()
        known = _may_be_bound(own)
        required = [name for name, one in own.items() if one.is_file and one.is_required]
        for at, variant in enumerate(self.variants, 1):
            bound = dict(variant.references())
            where = f"variants: {variant.name or at}: bind"
            for key, name in bound.items():
                if name not in known:
                    yield f"{where}: {key!r}: there is no ${name}"
            for name in required:
                if name not in bound.values():
                    yield f"{where}: no input takes ${name}"

    def _own(self) -> dict[str, Parameter]:
        """The parameters, and the picture if a variant binds one that is not among them."""
        bound = {name for variant in self.variants for _, name in variant.references()}
        if IMAGE.name in bound and IMAGE.name not in self.parameters:
            return {IMAGE.name: IMAGE, **self.parameters}
        return dict(self.parameters)

    def workflow(self, stem: str) -> Workflow:
        """The workflow; ``stem`` is the file's name without ``.json``."""
        name = self.name or stem
        own = self._own()
        makes_one = any(one.output is not None for one in self.variants)
        common = common_parameters(default_format="PNG" if makes_one else None)
        return Workflow(
            name=name,
            title=self.title or name,
            description=self.description,
            parameters={**own, **{one.name: one for one in common}},
            variants=tuple(one.variant(at) for at, one in enumerate(self.variants, 1)),
            subject=subject_of(own),
            scale=self.scale,
            crop=self.conversions.crop,
            source=stem,
        )


def _may_be_bound(own: dict[str, Parameter]) -> set[str]:
    pictures = [name for name, one in own.items() if one.kind is not None and one.kind.is_picture]
    sizes = {f"{name}.{side}" for name in pictures for side in ("width", "height")}
    common = {one.name for one in common_parameters(default_format=None)}
    return {*own, *sizes, *common, *(_SIZES if pictures else ())}


def subject_of(parameters: dict[str, Parameter]) -> str | None:
    """The parameter whose picture the sizes are about: the first image."""
    kinds = {name: one.kind for name, one in parameters.items() if one.is_file}
    return next((name for name, kind in kinds.items() if kind is FileKind.IMAGE), None)


def _input(key: str) -> Input:
    node, _, name = key.partition(".")
    return node, name


def _source(source: str | ChooseFile) -> str | Choose:
    if isinstance(source, ChooseFile):
        parameter = None if source.value is None else _named_by(source.value)
        return Choose(patterns=tuple(source.choose), parameter=parameter)
    return f"${_named_by(source)}"


def _named_by(reference: str) -> str:
    """The parameter or size; ``$picture`` is another way to write ``$image``."""
    return IMAGE.name if reference == "$picture" else reference[1:]
