"""Workflow templates on disk: the shipped ones and a directory of the user's own.

Two forms are read. A described template (``template.py``) is a JSON object with ``variants``. A raw
graph, as ComfyUI's "Export (API)" writes it, is taken as it is (``exported_graph.py``), with the
mapping ``NAME.toml`` beside ``NAME.json`` if there is one. README, "Workflows", describes both.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson
from pydantic import TypeAdapter, ValidationError

from comfy_proxy.jobs.workflows.exported_graph import ExportedGraph, MappingFile
from comfy_proxy.jobs.workflows.graph_format import UI_EXPORT, GraphInFile, is_ui_export
from comfy_proxy.jobs.workflows.problem import Problem, problems_of
from comfy_proxy.jobs.workflows.registry import WorkflowRegistry
from comfy_proxy.jobs.workflows.template import WORKFLOW_NAME, TemplateFile
from comfy_proxy.jobs.workflows.workflow import Workflow

_GRAPH: Final = TypeAdapter(GraphInFile)


MAX_TEMPLATE_BYTES: Final = 8 * 2**20
"""Bytes of a template; a longer one is no workflow. Its graph is copied for each job, and looked at
for each instance, while the event loop does nothing else."""


class Templates(NamedTuple):
    """What files say: workflows by name, and what is wrong with those that are none."""

    workflows: dict[str, Workflow]
    problems: list[Problem]


def load_workflows(directory: Path | None) -> WorkflowRegistry:
    """The shipped workflows and those of ``directory``, in a registry that knows the problems."""
    return WorkflowRegistry(*read_templates(directory))


def read_templates(directory: Path | None, before: Iterable[Workflow] = ()) -> Templates:
    """Each ``*.json`` of the package and of ``directory``. Blocks while it reads.

    A file with problems is no workflow, and stops no other one. ``before`` are the workflows that
    there were: one of them stays where its file is there and cannot be used now, which may be
    written at this moment.
    """
    shipped = resources.files("comfy_proxy.jobs.workflows") / "templates"
    earlier = {workflow.source: workflow for workflow in before}
    read = Templates({}, [])
    for folder in (shipped, directory):
        if folder is None:
            continue
        try:
            files = {file.name: file for file in folder.iterdir() if file.is_file()}
        except OSError as error:
            read.problems.append(Problem(file=str(folder), key="", reason=_because(error)))
            continue
        for name in sorted(files):
            _read(name, files, read, earlier)
    return read


def _read(
    name: str, files: dict[str, Traversable], read: Templates, earlier: dict[str, Workflow]
) -> None:
    stem, _, extension = name.rpartition(".")
    if extension == "toml" and f"{stem}.json" not in files:
        reason = f"there is no {stem}.json beside it"
        read.problems.append(Problem(file=name, key="", reason=reason))
    if extension != "json":
        return
    found: list[Problem] = []
    workflow = _workflow(stem, files, found) or earlier.get(stem)
    if workflow is not None and workflow.name in read.workflows:
        reason = f"there is another workflow named {workflow.name!r}"
        found.append(Problem(file=name, key="name", reason=reason))
    elif workflow is not None:
        read.workflows[workflow.name] = workflow
    read.problems.extend(found)


def _workflow(stem: str, files: dict[str, Traversable], problems: list[Problem]) -> Workflow | None:
    name, beside = f"{stem}.json", files.get(f"{stem}.toml")
    try:
        document = orjson.loads(_bytes_of(files[name]))
    except OSError as error:
        problems.append(Problem(file=name, key="", reason=_because(error)))
        return None
    except orjson.JSONDecodeError as error:
        problems.append(Problem(file=name, key="", reason=f"is not JSON: {error}"))
        return None
    workflow = None
    if not isinstance(document, dict) or not document:
        reason = "must be a JSON object: a graph or a described template"
        problems.append(Problem(file=name, key="", reason=reason))
    elif _is_described(document):
        workflow = _described(document, stem, problems)
        if beside is not None:
            reason = "a described template needs no mapping beside it"
            problems.append(Problem(file=beside.name, key="", reason=reason))
    else:
        workflow = _exported(document, stem, beside, problems)
    return workflow if not problems else None


def _is_described(document: dict[str, Any]) -> bool:
    """A graph has nodes only; a template has ``variants``, or is a mistaken one."""
    if "variants" in document:
        return True
    return not all(isinstance(node, dict) and "class_type" in node for node in document.values())


def _described(document: dict[str, Any], stem: str, problems: list[Problem]) -> Workflow | None:
    file = f"{stem}.json"
    if is_ui_export(document):
        problems.append(Problem(file=file, key="", reason=UI_EXPORT))
        return None
    try:
        template = TemplateFile.model_validate(document)
    except ValidationError as error:
        problems += problems_of(error, file, document)
        return None
    if template.name is None:
        _check_name(stem, problems)
    return template.workflow(stem)


def _exported(
    document: dict[str, Any], stem: str, beside: Traversable | None, problems: list[Problem]
) -> Workflow | None:
    _check_name(stem, problems)
    graph = _checked_graph(document, stem, problems)
    mapping = MappingFile() if beside is None else _mapping(beside, problems)
    if graph is None or mapping is None:
        return None
    named_file = f"{stem}.json" if beside is None else beside.name
    return ExportedGraph(graph, named_file, problems).workflow(stem, mapping)


def _checked_graph(
    document: dict[str, Any], stem: str, problems: list[Problem]
) -> dict[str, dict[str, Any]] | None:
    try:
        graph = _GRAPH.validate_python(document)
    except ValidationError as error:
        problems += problems_of(error, f"{stem}.json", document)
        return None
    return {node: dict(body) for node, body in graph.items()}


def _mapping(file: Traversable, problems: list[Problem]) -> MappingFile | None:
    document: dict[str, Any] = {}
    try:
        document = tomllib.loads(_bytes_of(file).decode())
        return MappingFile.model_validate(document)
    except OSError as error:
        reason = _because(error)
    except UnicodeDecodeError:
        reason = "is not UTF-8"
    except RecursionError:
        reason = "is nested too deeply"
    except tomllib.TOMLDecodeError as error:
        reason = f"is not TOML: {error}"
    except ValidationError as error:
        problems += problems_of(error, file.name, document)
        return None
    problems.append(Problem(file=file.name, key="", reason=reason))
    return None


def _check_name(stem: str, problems: list[Problem]) -> None:
    if not WORKFLOW_NAME.fullmatch(stem):
        reason = f"{stem!r} cannot be a name: letters, digits, '.', '_' and '-' can"
        problems.append(Problem(file=f"{stem}.json", key="name", reason=reason))


def _bytes_of(file: Traversable) -> bytes:
    with file.open("rb") as opened:
        data = opened.read(MAX_TEMPLATE_BYTES + 1)
    if len(data) > MAX_TEMPLATE_BYTES:
        raise _TooLongError(f"is longer than {MAX_TEMPLATE_BYTES} bytes")
    return data


class _TooLongError(OSError):
    """A file of which no more is read than MAX_TEMPLATE_BYTES."""


def _because(error: OSError) -> str:
    if isinstance(error, _TooLongError):
        return str(error)
    return f"cannot be read: {error.strerror or error}"
