"""Workflow templates on disk: the shipped ones and a directory of the user's own.

Two forms are read. A described template is a JSON object with ``variants`` (each a graph, what is
bound into it and where the picture comes out) and ``parameters``. A raw graph, as ComfyUI's
"Export (API)" writes it, is taken as it is if it has exactly one LoadImage and exactly one
SaveImage or PreviewImage; its name is the file's. All problems of a directory are reported
together. README, "Workflows", describes each key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final, cast

import orjson

from comfy_proxy.errors import InvalidFieldError, SettingsError
from comfy_proxy.jobs.graphs import Prompt
from comfy_proxy.jobs.parameters import COMMON, TYPES, Parameter
from comfy_proxy.jobs.template_checks import (
    UI_EXPORT,
    check_fields,
    check_graph,
    check_name,
    check_reference,
    is_link,
    is_number,
    is_ui_export,
)
from comfy_proxy.jobs.workflows import Choose, Variant, Workflow, WorkflowRegistry

RESERVED_PARAMETERS: Final = frozenset(
    (
        *("imageFile", "image", "file"),  # fields of the upload
        *("async", "mode", "token", "wait", "webhook_url"),  # transport options
        *("picture", "width", "height", "target_width", "target_height"),  # of bindings
        *("job_id", "status", "type", "message", "estimated_completion_time"),  # of the answer
        *("estimated_completion_seconds", "status_url", "result_url", "events_url"),
    )
)
_FIELDS: Final = frozenset(
    ("name", "title", "description", "parameters", "scale", "conversions", "variants")
)
_VARIANT_FIELDS: Final = frozenset(("name", "when", "graph", "bind", "output"))
_PARAMETER_FIELDS: Final = frozenset(Parameter.__dataclass_fields__) - {"name"}
_CONDITIONS: Final = frozenset(("alpha", "enlarges"))
_SIZES: Final = frozenset(("picture", "width", "height", "target_width", "target_height"))
_OUTPUT_CLASSES: Final = ("SaveImage", "PreviewImage")
_PARAMETER_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


def load_workflows(directory: Path | None) -> WorkflowRegistry:
    """The shipped workflows and those of ``directory`` (each ``*.json`` in it), by name.

    Raises SettingsError with one line, naming the file, for each thing that is wrong.
    """
    shipped = resources.files("comfy_proxy.jobs") / "templates"
    files: list[Traversable] = sorted(shipped.iterdir(), key=lambda file: file.name)
    if directory is not None:
        files += sorted(directory.iterdir(), key=lambda file: file.name)
    problems: list[str] = []
    workflows: dict[str, Workflow] = {}
    for file in files:
        if not file.name.endswith(".json") or not file.is_file():
            continue
        found: list[str] = []
        workflow = _read(file, found)
        if workflow is not None and workflow.name in workflows:
            found.append(f"there is another workflow named {workflow.name!r}")
        elif workflow is not None:
            workflows[workflow.name] = workflow
        problems += [f"{file.name}: {problem}" for problem in found]
    if problems:
        raise SettingsError(problems)
    return WorkflowRegistry(workflows)


def _read(file: Traversable, problems: list[str]) -> Workflow | None:
    try:
        document = orjson.loads(file.read_bytes())
    except OSError as error:
        problems.append(f"cannot be read: {error.strerror}")
        return None
    except orjson.JSONDecodeError as error:
        problems.append(f"is not JSON: {error}")
        return None
    return parse_template(document, file.name.removesuffix(".json"), problems)


def parse_template(document: object, stem: str, problems: list[str]) -> Workflow | None:
    """One template → its workflow; None if it has problems, which are added to ``problems``.

    ``stem`` is the name for a template without one: the file's, without ``.json``.
    """
    before = len(problems)
    if not isinstance(document, dict) or not document:
        problems.append("must be a JSON object: a graph or a described template")
        return None
    if is_ui_export(document):
        problems.append(UI_EXPORT)
        return None
    if "variants" not in document and all(
        isinstance(node, dict) and "class_type" in node for node in document.values()
    ):
        workflow = _raw(document, stem, problems)
    else:
        workflow = _described(document, stem, problems)
    return workflow if len(problems) == before else None


def _raw(graph: Prompt, name: str, problems: list[str]) -> Workflow | None:
    check_name(name, problems)
    check_graph(graph, problems)
    if problems:
        return None
    loaders = [node for node, body in graph.items() if body["class_type"] == "LoadImage"]
    outputs = [node for node, body in graph.items() if body["class_type"] in _OUTPUT_CLASSES]
    if len(loaders) != 1:
        problems.append(f"needs exactly one LoadImage, it has {len(loaders)}")
    if len(outputs) != 1:
        problems.append(f"needs exactly one SaveImage or PreviewImage, it has {len(outputs)}")
    if problems:
        return None
    bind = {(loaders[0], "image"): "$picture"}
    return Workflow(
        name=name,
        title=name,
        description="",
        parameters={parameter.name: parameter for parameter in COMMON},
        variants=(Variant(name="graph", graph=graph, bind=bind, output=outputs[0]),),
    )


def _described(document: dict[str, Any], stem: str, problems: list[str]) -> Workflow:
    check_fields(document, _FIELDS, problems)
    name = document.get("name", stem)
    check_name(name, problems)
    parameters = _parameters(document.get("parameters", {}), problems)
    conversions = document.get("conversions", {})
    if not isinstance(conversions, dict) or not set(conversions) <= {"crop"}:
        problems.append("conversions: there is only 'crop'")
        conversions = {}
    crop = conversions.get("crop", False)
    check_reference(crop, parameters, ("boolean",), "conversions.crop", problems)
    scale = document.get("scale")
    if scale is not None:
        check_reference(scale, parameters, ("number", "integer"), "scale", problems)
    variants = document.get("variants")
    if not isinstance(variants, list) or not variants:
        problems.append("variants: must be a list with at least one variant")
        variants = []
    read = [_variant(body, at, parameters, problems) for at, body in enumerate(variants, 1)]
    return Workflow(
        name=str(name),
        title=str(document.get("title", name)),
        description=str(document.get("description", "")),
        parameters=parameters,
        variants=tuple(variant for variant in read if variant is not None),
        scale=cast(float | str | None, scale),
        crop=crop,
    )


def _parameters(document: object, problems: list[str]) -> dict[str, Parameter]:
    parameters = {parameter.name: parameter for parameter in COMMON}
    if not isinstance(document, dict):
        problems.append("parameters: must be an object")
        return parameters
    own: dict[str, Parameter] = {}
    for name, body in document.items():
        if name in RESERVED_PARAMETERS or name in parameters or not _PARAMETER_NAME.fullmatch(name):
            problems.append(f"parameters: {name!r} is reserved or no name (a-z, 0-9 and _)")
            continue
        try:
            own[name] = _parameter(name, body)
        except (TypeError, ValueError, InvalidFieldError) as error:
            problems.append(f"parameters.{name}: {error}")
    return {**own, **parameters}


def _parameter(name: str, body: object) -> Parameter:
    if not isinstance(body, dict) or body.get("type") not in TYPES:
        raise ValueError(f"must be an object whose type is one of {', '.join(TYPES)}")
    unknown = set(body) - _PARAMETER_FIELDS
    if unknown:
        raise ValueError(f"there is no {', '.join(sorted(unknown))}")
    choices = body.get("choices", [])
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise ValueError("choices must be a list of texts")
    if (body["type"] == "enum") != bool(choices):
        raise ValueError("choices belong to an enum, and an enum needs them")
    for bound in ("minimum", "exclusive_minimum", "maximum"):
        if bound in body and not is_number(body[bound]):
            raise ValueError(f"{bound} must be a number")
    parameter = Parameter(**{**body, "name": name, "choices": tuple(choices)})
    if parameter.default is not None:
        parameter.parse(parameter.default)
    return parameter


def _variant(
    body: object, at: int, parameters: Mapping[str, Parameter], problems: list[str]
) -> Variant | None:
    if not isinstance(body, dict):
        problems.append(f"variant {at}: must be an object")
        return None
    name = str(body.get("name", at))
    found: list[str] = []
    check_fields(body, _VARIANT_FIELDS, found)
    graph = body.get("graph")
    when = body.get("when", {})
    if not isinstance(when, dict) or not set(when) <= _CONDITIONS:
        found.append(f"when: there are only {', '.join(sorted(_CONDITIONS))}")
    elif not all(isinstance(wanted, bool) for wanted in when.values()):
        found.append("when: each is true or false")
    check_graph(graph, found)
    bind: dict[tuple[str, str], str | Choose] = {}
    output: tuple[str, int] | str = ""
    if not found:
        graph = cast(Prompt, graph)
        bind = _bind(body.get("bind", {}), graph, parameters, found)
        output = _output(body.get("output"), graph, found)
    problems += [f"variant {name!r}: {problem}" for problem in found]
    if found:
        return None
    return Variant(name=name, graph=cast(Prompt, graph), bind=bind, output=output, when=when)


def _bind(
    document: object, graph: Prompt, parameters: Mapping[str, Parameter], problems: list[str]
) -> dict[tuple[str, str], str | Choose]:
    bind: dict[tuple[str, str], str | Choose] = {}
    for key, value in document.items() if isinstance(document, dict) else ():
        node, _, name = key.partition(".")
        if node not in graph:
            problems.append(f"bind: {key!r}: the graph has no node {node!r}")
        elif name not in graph[node]["inputs"]:
            problems.append(f"bind: {key!r}: node {node!r} has no input {name!r}")
        source = _source(value, parameters)
        if source is None:
            problems.append(f"bind: {key!r}: {value!r} is no $parameter and no {{'choose': […]}}")
        else:
            bind[node, name] = source
    if "$picture" not in bind.values():
        problems.append("bind: no input takes '$picture'")
    return bind


def _source(value: object, parameters: Mapping[str, Parameter]) -> str | Choose | None:
    if isinstance(value, str) and value[:1] == "$":
        return value if value[1:] in _SIZES or value[1:] in parameters else None
    if isinstance(value, dict) and set(value) == {"choose"} and isinstance(value["choose"], list):
        patterns = value["choose"]
        if patterns and all(isinstance(pattern, str) for pattern in patterns):
            return Choose(patterns=tuple(patterns))
    return None


def _output(value: object, graph: Prompt, problems: list[str]) -> tuple[str, int] | str:
    if isinstance(value, str) and value in graph:
        if graph[value]["class_type"] not in _OUTPUT_CLASSES:
            problems.append(f"output: node {value!r} is neither SaveImage nor PreviewImage")
        return value
    if is_link(value) and cast(list[Any], value)[0] in graph:
        node, slot = cast(tuple[str, int], value)
        return node, slot
    problems.append("output: must be a link like ['7', 0] or the id of a node in the graph")
    return ""
