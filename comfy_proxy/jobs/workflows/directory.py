"""Workflow templates on disk: the shipped ones and a directory of the user's own.

Two forms are read. A described template (``template.py``) is a JSON object with ``variants``. A raw
graph, as ComfyUI's "Export (API)" writes it, is taken as it is (``exported_graph.py``), with the
mapping ``NAME.toml`` beside ``NAME.json`` if there is one, and so is a saved body of
``POST /prompt``. README, "Workflows", describes both.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import TypeAdapter, ValidationError

from comfy_proxy.jobs.workflows.exported_graph import ExportedGraph, MappingFile
from comfy_proxy.jobs.workflows.graph_format import UI_EXPORT, GraphInFile, is_ui_export
from comfy_proxy.jobs.workflows.problem import Problem, problems_of
from comfy_proxy.jobs.workflows.registry import WorkflowRegistry
from comfy_proxy.jobs.workflows.template import WORKFLOW_NAME, TemplateFile
from comfy_proxy.jobs.workflows.template_text import (
    UnreadableError,
    because,
    read_json,
    read_toml,
)
from comfy_proxy.jobs.workflows.workflow import Workflow

_GRAPH: Final = TypeAdapter(GraphInFile)
_NO_NODE: Final = "is no node, and a graph has nothing else"
_NEITHER: Final = (
    "is neither a graph, whose nodes have a class_type, nor a described template, which has"
    " variants"
)


class Templates(NamedTuple):
    """What files say: workflows by name, and what is wrong with those that are none."""

    workflows: dict[str, Workflow]
    problems: list[Problem]


def load_workflows(directory: Path | None) -> WorkflowRegistry:
    """The shipped workflows and those of ``directory``, in a registry that knows the problems."""
    return WorkflowRegistry(*read_templates(directory))


def read_templates(directory: Path | None, before: Iterable[Workflow] = ()) -> Templates:
    """Each ``*.json`` (or ``*.JSON``) of the package and of ``directory``. Blocks while it reads.

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
            files = _files(folder, read.problems)
        except OSError as error:
            read.problems.append(Problem(file=str(folder), key="", reason=because(error)))
            continue
        for name in sorted(files):
            _read(name, files, read, earlier)
    return read


def _files(folder: Traversable, problems: list[Problem]) -> dict[str, Traversable]:
    """Templates and mappings by name, ``.json`` and ``.toml`` in small letters. Raises OSError."""
    files: dict[str, Traversable] = {}
    for file in sorted(folder.iterdir(), key=lambda one: one.name):
        stem, _, extension = file.name.rpartition(".")
        name, reason = f"{stem}.{extension.lower()}", ""
        if extension.lower() not in ("json", "toml"):
            continue
        if not file.is_file():
            is_link = isinstance(file, Path) and file.is_symlink() and not file.exists()
            reason = "is a link that leads to no file" if is_link else "is no file"
        elif name in files:
            reason = f"has the same name as {files[name].name}"
        if reason:
            problems.append(Problem(file=file.name, key="", reason=reason))
        else:
            files[name] = file
    return files


def _read(
    name: str, files: dict[str, Traversable], read: Templates, earlier: dict[str, Workflow]
) -> None:
    stem, _, extension = name.rpartition(".")
    if extension == "toml" and f"{stem}.json" not in files:
        reason = f"there is no {stem}.json beside it"
        read.problems.append(Problem(file=files[name].name, key="", reason=reason))
    if extension != "json":
        return
    found: list[Problem] = []
    workflow = _workflow(stem, files, found) or earlier.get(stem)
    if workflow is not None and workflow.name in read.workflows:
        reason = f"there is another workflow named {workflow.name!r}"
        found.append(Problem(file=files[name].name, key="name", reason=reason))
    elif workflow is not None:
        read.workflows[workflow.name] = workflow
    read.problems.extend(found)


def _workflow(stem: str, files: dict[str, Traversable], problems: list[Problem]) -> Workflow | None:
    file, beside = files[f"{stem}.json"], files.get(f"{stem}.toml")
    try:
        document = read_json(file)
    except UnreadableError as error:
        problems.append(Problem(file=file.name, key="", reason=str(error)))
        return None
    workflow = None
    if not isinstance(document, dict) or not document:
        reason = "must be a JSON object: a graph or a described template"
        problems.append(Problem(file=file.name, key="", reason=reason))
    elif _is_graph(graph := _saved_prompt(document)):
        workflow = _exported(graph, stem, file, beside, problems)
    else:
        workflow = _described(document, stem, file, problems)
        if beside is not None:
            reason = "a described template needs no mapping beside it"
            problems.append(Problem(file=beside.name, key="", reason=reason))
    return workflow if not problems else None


def _saved_prompt(document: dict[str, Any]) -> dict[str, Any]:
    """The graph of a saved body of ``POST /prompt``, which has it under ``prompt``; else all."""
    prompt = document.get("prompt")
    if not isinstance(prompt, dict) or _is_graph(document) or not _is_graph(prompt):
        return document
    return prompt


def _is_graph(document: dict[str, Any]) -> bool:
    """One of its values is a node. A template has ``variants``, or is a mistaken one."""
    if "variants" in document:
        return False
    return any(isinstance(node, dict) and "class_type" in node for node in document.values())


def _described(
    document: dict[str, Any], stem: str, file: Traversable, problems: list[Problem]
) -> Workflow | None:
    reason = UI_EXPORT if is_ui_export(document) else _NEITHER
    if is_ui_export(document) or TemplateFile.model_fields.keys().isdisjoint(document):
        problems.append(Problem(file=file.name, key="", reason=reason))
        return None
    try:
        template = TemplateFile.model_validate(document)
    except ValidationError as error:
        problems += problems_of(error, file.name, document)
        return None
    if template.name is None:
        _check_name(stem, file, problems)
    return template.workflow(stem)


def _exported(
    document: dict[str, Any],
    stem: str,
    file: Traversable,
    beside: Traversable | None,
    problems: list[Problem],
) -> Workflow | None:
    _check_name(stem, file, problems)
    graph = _checked_graph(document, file, problems)
    mapping = MappingFile() if beside is None else _mapping(beside, problems)
    if graph is None or mapping is None:
        return None
    named_file = file.name if beside is None else beside.name
    return ExportedGraph(graph, named_file, problems).workflow(stem, mapping)


def _checked_graph(
    document: dict[str, Any], file: Traversable, problems: list[Problem]
) -> dict[str, dict[str, Any]] | None:
    others = [key for key, node in document.items() if not isinstance(node, dict)]
    if others:
        problems += [Problem(file=file.name, key=key, reason=_NO_NODE) for key in others]
        return None
    try:
        graph = _GRAPH.validate_python(document)
    except ValidationError as error:
        problems += problems_of(error, file.name, document)
        return None
    return {node: dict(body) for node, body in graph.items()}


def _mapping(file: Traversable, problems: list[Problem]) -> MappingFile | None:
    document: dict[str, Any] = {}
    try:
        document = read_toml(file)
        return MappingFile.model_validate(document)
    except UnreadableError as error:
        problems.append(Problem(file=file.name, key="", reason=str(error)))
    except ValidationError as error:
        problems += problems_of(error, file.name, document)
    return None


def _check_name(stem: str, file: Traversable, problems: list[Problem]) -> None:
    if not WORKFLOW_NAME.fullmatch(stem):
        reason = f"{stem!r} cannot be a name: letters, digits, '.', '_' and '-' can"
        problems.append(Problem(file=file.name, key="name", reason=reason))
